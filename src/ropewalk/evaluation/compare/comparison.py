"""`compare`: every method on one model, on text and retrieval, beside the unmodified and the cropped control."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError, renamed
from ropewalk.evaluation.compare.candidates import CROPPED, UNMODIFIED, Candidate, choose
from ropewalk.evaluation.compare.measure import (
    Scores,
    Text,
    cropped_questions,
    cropped_scores,
    cut_windows,
    question_scores,
    span_of,
    text_scores,
)
from ropewalk.evaluation.compare.result import CompareResult, LeftOutRow, Row
from ropewalk.evaluation.compare.store import Finished
from ropewalk.evaluation.compare.verdict import judge, ranked, row_of
from ropewalk.geometry import RopeGeometry
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import parse_target

DEFAULT_TASKS = ("needle",)
DEFAULT_DEPTHS = 5
DEFAULT_SAMPLES = 4
DEFAULT_WINDOWS = 8


@dataclass(frozen=True)
class Step:
    """Told as the comparison goes on: which candidate, how far (0 to 1), and its row once it has one."""

    name: str
    number: int
    total: int
    share: float
    row: Row | None = None
    kept: bool = False


OnStep = Callable[[Step], None]


@renamed(run="output")
def compare(
    source: str | Path | Any,
    *,
    target: str | int = "8x",
    methods: str | Sequence[str] = "all",
    text: str | Path | None = None,
    windows: int = DEFAULT_WINDOWS,
    tasks: Sequence[str] = DEFAULT_TASKS,
    depths: int = DEFAULT_DEPTHS,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    output: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    trust_remote_code: bool = False,
    on_step: OnStep | None = None,
) -> CompareResult:
    """Measure methods at `target` (a length, or a multiple such as `8x`) and say which is best for what.

    The model is loaded once and each schedule is applied to it in turn. Text: `windows` windows of the target length
    (by default of the held-out standard library). Retrieval: `samples` texts with a question at each of `depths`
    depths for every task; `tasks=()` leaves retrieval out. Results go to a run folder, candidate by candidate: after
    an interruption the same call with the same `output` measures only what is missing.
    """
    began = time.monotonic()
    setup = _prepare(
        source,
        target,
        methods,
        text,
        windows,
        tasks,
        depths,
        samples,
        seed,
        device,
        dtype,
        attn,
        trust_remote_code,
    )
    with Finished.open(setup.request(), output, seed) as finished:
        try:
            for number, candidate in enumerate(setup.queue):
                _measure_or_keep(setup, finished, number, candidate, on_step)
        except KeyboardInterrupt:
            if {UNMODIFIED, CROPPED} <= finished.scores.keys():
                finished.write_result(_result(setup, finished, began, complete=False).to_json())
            raise
        result = _result(setup, finished, began, complete=True)
        finished.write_result(result.to_json())
    return result


@dataclass(frozen=True)
class _Setup:
    """What was asked, resolved: the model, the windows, the questions and the queue of candidates."""

    name: str
    model: Any
    tokenizer: Any
    geometry: RopeGeometry
    target: int
    lengths: list[int]
    windows: Text
    text: str
    plan: Any
    tasks: list[str]
    queue: list[Candidate]
    left_out: list[LeftOutRow]
    seed: int

    @property
    def original(self) -> int:
        return self.geometry.original_length

    def request(self) -> dict[str, Any]:
        """What makes two comparisons the same."""
        return {
            "model": self.name,
            "target_length": self.target,
            "methods": [candidate.name for candidate in self.queue],
            "text": self.text,
            "windows": len(self.windows.rows),
            "tasks": self.tasks,
            "questions": 0 if self.plan is None else self.plan.samples,
            "seed": self.seed,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def _prepare(
    source: Any,
    target: str | int,
    methods: str | Sequence[str],
    text: str | Path | None,
    windows: int,
    tasks: Sequence[str],
    depths: int,
    samples: int,
    seed: int,
    device: str,
    dtype: str,
    attn: str,
    trust_remote_code: bool,
) -> _Setup:
    from ropewalk.models.facts import read_facts
    from ropewalk.models.load import load_model, load_tokenizer
    from ropewalk.models.stretch import kept_parameters
    from ropewalk.text.corpus import read_documents

    if windows < 1:
        raise UsageError(
            f"windows={windows} measures no text", hint="use 1 or more; 4 or more give useful intervals"
        )
    facts = read_facts(source)
    geometry = facts.geometry
    length = parse_target(target, geometry.original_length)
    candidates, left_out = choose(
        methods, geometry, length / geometry.original_length, kept_parameters(facts)
    )
    documents = read_documents(text)
    tokenizer = load_tokenizer(source)
    plan, kept_tasks, refused = _questions(
        tokenizer, tasks, [geometry.original_length, length], depths, samples, seed
    )
    cut = cut_windows(tokenizer, documents, length, windows, seed)
    model = load_model(source, device=device, dtype=dtype, attn=attn, trust_remote_code=trust_remote_code)
    own = schedule_of_model(geometry)
    controls = [Candidate(name, "control", own) for name in (UNMODIFIED, CROPPED)]
    return _Setup(
        name=str(source),
        model=model,
        tokenizer=tokenizer,
        geometry=geometry,
        target=length,
        lengths=_doubling(geometry.original_length, length),
        windows=cut,
        text="held-out standard library" if text is None else str(text),
        plan=plan,
        tasks=kept_tasks,
        queue=[*controls, *candidates],
        left_out=[*(LeftOutRow(name=item.name, why=item.why) for item in left_out), *refused],
        seed=seed,
    )


def schedule_of_model(geometry: RopeGeometry) -> FrequencySchedule:
    """The controls' own line in the table: nothing is stretched."""
    from ropewalk.methods import schedule

    return schedule("none", geometry, factor=1.0)


def _questions(
    tokenizer: Any, tasks: Sequence[str], lengths: Sequence[int], depths: int, samples: int, seed: int
) -> tuple[Any, list[str], list[LeftOutRow]]:
    """The plan of all questions. Where the window is too short to hold a task, only the target is asked."""
    from ropewalk.evaluation.retrieval.run import plan_tasks

    if not tasks:
        return None, [], []
    settings: dict[str, Any] = {"depths": depths, "samples": samples, "seed": seed, "grid": "packed"}
    try:
        return plan_tasks(tokenizer, tasks=list(tasks), lengths=lengths, **settings), list(tasks), []
    except UsageError as error:
        if "does not fit" not in error.message:
            raise
        plan = plan_tasks(tokenizer, tasks=list(tasks), lengths=[lengths[-1]], **settings)
        return plan, list(tasks), [LeftOutRow(name="retrieval inside the window", why=str(error))]


def _doubling(original: int, target: int) -> list[int]:
    lengths = [original]
    while lengths[-1] * 2 < target:
        lengths.append(lengths[-1] * 2)
    return lengths if target == original else [*lengths, target]


def _measure_or_keep(
    setup: _Setup, finished: Finished, number: int, candidate: Candidate, on_step: OnStep | None
) -> None:
    """One candidate: read back where an earlier call finished it, measured and kept otherwise."""
    tell = on_step or (lambda step: None)
    total = len(setup.queue)
    kept = candidate.name in finished.scores
    if not kept:
        began = time.monotonic()
        budget = max(1, _tokens_of(setup))
        read = [0]

        def on_tokens(tokens: int) -> None:
            read[0] += tokens
            tell(Step(candidate.name, number, total, min(1.0, read[0] / budget)))

        scores = _measure(setup, candidate, on_tokens)
        finished.keep(candidate, scores, time.monotonic() - began)
    row = row_of(
        candidate,
        finished.scores[candidate.name],
        setup.original,
        setup.target,
        finished.seconds[candidate.name],
    )
    tell(Step(candidate.name, number, total, 1.0, row=row, kept=kept))


def _tokens_of(setup: _Setup) -> int:
    questions = (
        0
        if setup.plan is None
        else sum(max(sample.length for sample in group) for group in setup.plan.groups)
    )
    return setup.target * len(setup.windows.rows) + questions


def _measure(setup: _Setup, candidate: Candidate, on_tokens: Callable[[int], None]) -> Scores:
    from ropewalk.evaluation.forward.engine import Engine

    with _applied(setup.model, candidate):
        engine = Engine(setup.model)
        if candidate.name == CROPPED:
            return _measure_cropped(setup, engine)
        scores = text_scores(engine, setup.windows, setup.lengths, setup.original, on_tokens)
        if setup.plan is not None:
            scores.credits.update(question_scores(engine, setup.tokenizer, setup.plan, on_tokens))
        return scores


def _measure_cropped(setup: _Setup, engine: Any) -> Scores:
    by_length = cropped_scores(engine, setup.windows, setup.lengths, setup.original)
    inside = text_scores(
        engine, setup.windows.first(setup.original), [setup.original], setup.original, lambda tokens: None
    )
    scores = Scores(by_length, inside.in_window, inside.bands, [])
    if setup.plan is not None:
        scores.credits.update(cropped_questions(engine, setup.plan, setup.original, setup.windows.opening))
    return scores


def _applied(model: Any, candidate: Candidate) -> AbstractContextManager[Any]:
    if candidate.variant == "control":
        return nullcontext()
    from ropewalk.models.apply import apply

    applied: AbstractContextManager[Any] = apply(model, candidate.schedule)
    return applied


def _result(setup: _Setup, finished: Finished, began: float, *, complete: bool) -> CompareResult:
    rows = {
        candidate.name: row_of(
            candidate,
            finished.scores[candidate.name],
            setup.original,
            setup.target,
            finished.seconds[candidate.name],
        )
        for candidate in setup.queue
        if candidate.name in finished.scores
    }
    controls = {name: rows.pop(name) for name in (UNMODIFIED, CROPPED)}
    ordered = ranked(list(rows.values()), finished.scores, setup.target)
    return CompareResult(
        model=setup.name,
        original_length=setup.original,
        target_length=setup.target,
        factor=setup.target / setup.original,
        lengths=setup.lengths,
        span=span_of(setup.original),
        text=setup.text,
        documents=sorted(set(setup.windows.documents)),
        text_joined=setup.windows.joined,
        windows=len(setup.windows.rows),
        tasks=setup.tasks,
        questions=0 if setup.plan is None else setup.plan.samples,
        chance=None if setup.plan is None else max(s.chance for group in setup.plan.groups for s in group),
        seed=setup.seed,
        controls=controls,
        methods=ordered,
        not_measured=setup.left_out,
        verdict=judge(ordered, controls, finished.scores, setup.original, setup.target),
        complete=complete,
        seconds=round(time.monotonic() - began, 1),
        run=str(finished.path),
    )
