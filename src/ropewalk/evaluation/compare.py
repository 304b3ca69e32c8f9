"""`compare`: for each candidate the segments, readings, questions and intervals of `eval`; then a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.errors import RopewalkError, UsageError, renamed
from ropewalk.evaluation.candidates.rows import Queue
from ropewalk.evaluation.request import CompareRequest, make_request
from ropewalk.evaluation.result import CompareResult
from ropewalk.units import doublings, parse_target

if TYPE_CHECKING:
    from ropewalk.evaluation.candidates.candidate import Candidate
    from ropewalk.evaluation.local import Local, Measured
    from ropewalk.evaluation.loss.reading import Reading


@dataclass(frozen=True)
class Step:
    """Told as the comparison goes on: which candidate, how far (0 to 1), and its figures once it has them."""

    name: str
    number: int
    total: int
    share: float
    measured: Measured | None = None


OnStep = Callable[[Step], None]


@renamed(run="output")
def compare(
    model: Any,
    *,
    target: str | int = "8x",
    methods: str | Sequence[str] = "all",
    schedules: Sequence[str | Path] = (),
    candidates: Sequence[Candidate] = (),
    tokenizer: Any | None = None,
    output: str | Path | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> CompareResult:
    """Measure candidates at `target` (a length, or a multiple such as `8x`) and say which is best for what.

    Rows: the named methods with their variants, position maps (`zones`), either at an attention temperature
    (`yarn+log-n`) or read through another cache (`yarn+q4`), finished schedules and maps (files), whatever `candidates`
    puts on the model, and the present schedule where the model is stretched already. All other keywords are those of
    `CompareRequest`, with the defaults of the command line. Results go to a run folder cell by cell: after an
    interruption the same call with the same `output` measures only what is missing.
    """
    from ropewalk.evaluation.evaluate import given_parts
    from ropewalk.models.facts import read_facts

    name, parts = given_parts(model, tokenizer, settings)
    if settings.get("text") is not None:
        settings["text"] = str(settings["text"])
    facts = read_facts(name if parts["model"] is None else model.config.to_dict())
    length = parse_target(target, facts.original_length)
    request = make_request(
        CompareRequest,
        name,
        target=target,
        methods=methods,
        schedules=schedules,
        candidates=[candidate.name for candidate in candidates],
        # The window, its doublings, the target.
        lengths=doublings(facts.original_length, length),
        **settings,
    )
    _check(request)
    return _in_run(request, parts, Queue.of(request, facts, length, candidates), output, on_step)


def _check(request: CompareRequest) -> None:
    for name, wrong, way in (
        ("protocol", request.protocol != "prefix", "prefix alone: every length comes from one reading"),
        ("controls", not request.controls, "true: no row means anything without them"),
        ("health", request.health, "for `ropewalk eval --health`, one model at a time"),
        (
            "reference",
            request.reference is not None and not request.reads_text,
            "for key tokens of text: add ppl to the tasks",
        ),
        ("base", request.base is not None, "for `ropewalk eval`: here all rows have the same weights"),
    ):
        if wrong:
            raise UsageError(
                f"a comparison does not take {name}={getattr(request, name)}", hint=f"it is {way}"
            )


def _in_run(
    request: CompareRequest,
    parts: dict[str, Any],
    queue: Queue,
    run: str | Path | None,
    on_step: OnStep | None,
) -> CompareResult:
    from ropewalk.evaluation.local import Local
    from ropewalk.evaluation.work.folder import bound_cells, run_folder
    from ropewalk.evaluation.work.processes import Processes
    from ropewalk.evaluation.work.watch import Watcher
    from ropewalk.models.load import quiet_transformers

    began = time.monotonic()
    processes = Processes.join(request.device)
    quiet = quiet_transformers() if parts["model"] is None else nullcontext()
    with quiet, run_folder("compare", request, run, processes) as (writing, folder):
        cells = bound_cells(request, folder, processes)
        # Questions at the window and at the target alone: what lies between decides nothing and costs as much to read.
        asked = [queue.facts.original_length, queue.target]
        local = Local(request, parts, cells, processes, Watcher(), asked=list(dict.fromkeys(asked)))
        made = Comparison(local, queue, str(folder), on_step or (lambda step: None))
        try:
            made.measure(writing)
        except KeyboardInterrupt:
            # Before the controls are measured there is nothing to hold a row against, and nothing to say.
            if writing is not None and made.has_controls:
                writing.write_json("result.json", made.result(began, complete=False).to_json())
            raise
        result = made.result(began, complete=True)
        if writing is not None:
            writing.write_json("result.json", result.to_json())
    return result


class Comparison:
    """The candidates measured one after the other on one loaded model."""

    def __init__(self, local: Local, queue: Queue, run: str, tell: OnStep) -> None:
        self.local, self.queue, self.run, self.tell = local, queue, run, tell
        self.measured: dict[str, Measured] = {}
        self.contexts: dict[int, Any] = {}
        self.reference: tuple[Reading, Reading] | None = None

    @property
    def has_controls(self) -> bool:
        """Whether there is anything to hold rows against."""
        return all(control.name in self.measured for control in self.queue.controls)

    def measure(self, writing: Any) -> None:
        """Every candidate; each one's schedule is kept beside its cells, ready for `extend --schedule`."""
        for number, candidate in enumerate(self.queue.all):
            self._listen(candidate.name, number)
            found = self.local.measure(candidate)
            self.measured[candidate.name] = found
            made = candidate.schedule or candidate.nearest
            if writing is not None and made is not None:
                beside = candidate.schedule is None
                document = {
                    "format": "ropewalk-compare-part/1",
                    "name": f"table nearest to {candidate.name}" if beside else candidate.name,
                    "schedule": made.to_json(),
                }
                writing.write_json(
                    f"parts/{candidate.slug}{'-nearest-table' if beside else ''}.json", document
                )
            self.tell(Step(candidate.name, number, len(self.queue.all), 1.0, measured=found))
            # At once, so that an interrupted comparison can still say what context is worth.
            if number + 1 == len(self.queue.controls):
                self._read_contexts(number)
                self._read_reference(number)

    def _listen(self, name: str, number: int) -> None:
        """Tokens of this candidate as its share; retrieval learns its total only when it begins."""
        from ropewalk.evaluation.work.watch import Watcher

        total = len(self.queue.all)
        # Text and questions count as half a row each: what one of them costs is not known before it is done.
        parts = 1 + (self.local.plan is not None and self.local.segments is not None)
        first = ""

        def on_tokens(done: int, planned: int, what: str) -> None:
            nonlocal first
            first = first or what
            share = done / planned if planned else 0.0
            whole = share if parts == 1 else share / 2 if what == first else 0.5 + share / 2
            self.tell(Step(name, number, total, min(1.0, whole)))

        self.local.watcher = Watcher(on_tokens)

    def _read_contexts(self, number: int) -> None:
        """The same tokens with less and less context, by the reader that cropping is: what context is worth here."""
        from ropewalk.evaluation.loss.controls import Crop
        from ropewalk.evaluation.loss.reading import tail_start
        from ropewalk.evaluation.verdict.worth import contexts_of

        local = self.local
        if local.segments is None or self.queue.target <= self.queue.facts.original_length:
            return
        first = tail_start(self.queue.target)
        # The second control is the unmodified model on cropped context.
        cropped = self.queue.controls[1]
        self._listen(cropped.name, number)
        # Without the last, all of the window: that is what the control itself has read.
        for context in contexts_of(self.queue.facts.original_length)[:-1]:
            self.contexts[context] = local.cropped_tail(cropped, Crop.of(context), first)

    def _read_reference(self, number: int) -> None:
        """The model that chooses the key tokens, if one was named; a second model only for as long as it reads."""
        from ropewalk.evaluation.candidates.controls import REFERENCES

        source = self.local.request.reference
        if source is not None and self.queue.target > self.queue.facts.original_length:
            self._listen(REFERENCES[0], number)
            self.reference = self.local.reference_readings(source)

    def result(self, began: float, *, complete: bool) -> CompareResult:
        """Rows, order and verdict of what has been measured so far."""
        from ropewalk.evaluation.verdict.many import Many

        if not self.has_controls:
            raise RopewalkError("no control has been measured", hint="run again to complete it")
        many = Many(self.local, self.queue, self.measured, self.contexts, self.reference)
        return many.result(self.run, round(time.monotonic() - began, 1), complete=complete)
