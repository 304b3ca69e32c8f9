"""One measurer: a loaded model, one text, one set of questions. `eval` and `compare` differ in what they measure.

Every reader (the model, a candidate of a comparison, a control) reads the same segments and answers the same
questions; cells are kept under its name.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.controls import REFERENCES
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.forward.spread import ALL, own_dtype, spread
from ropewalk.evaluation.loss.controls import Crop
from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.loss.units import (
    Unit,
    crop_cell,
    cropped_reading,
    cropped_units,
    prefix_reading,
    prefix_units,
    run_units,
    sliding_reading,
    window_units,
)
from ropewalk.evaluation.request import AUTO, EvalRequest
from ropewalk.evaluation.result import LeftOut, TextUsed
from ropewalk.evaluation.retrieval.forms import Forms
from ropewalk.evaluation.retrieval.inputs import asking_of
from ropewalk.evaluation.retrieval.run import Course, Plan, plan_tasks, run_cropped, run_plan
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.work import fingerprints
from ropewalk.evaluation.work.cells import Cells, LossArray
from ropewalk.evaluation.work.processes import Processes
from ropewalk.evaluation.work.watch import Watcher
from ropewalk.map_files import is_map, read_map
from ropewalk.models.checkpoint.origin import fitted_elsewhere
from ropewalk.models.facts import read_facts
from ropewalk.text.corpus import read_documents
from ropewalk.text.segments import Segments, cut
from ropewalk.units import doublings


@dataclass(frozen=True)
class Measured:
    """What one reader came to. `kept`: everything was there from an earlier call, nothing was computed."""

    candidate: Candidate
    reading: Reading | None
    scores: list[SampleScore]
    seconds: float = 0.0
    kept: bool = False


class Local:
    """Text, questions and a model to read them. Everything that can be refused is refused before the first forward."""

    def __init__(
        self,
        request: EvalRequest,
        parts: dict[str, Any],
        cells: Cells,
        processes: Processes,
        watcher: Watcher,
        *,
        asked: Sequence[int] | None = None,
    ) -> None:
        """`asked` are the lengths at which questions are asked; by default all of them."""
        from ropewalk.models.load import load_tokenizer

        self.request, self.cells, self.processes, self.watcher = request, cells, processes, watcher
        self.remarks: list[str] = []
        given, tokenizer = parts["model"], parts["tokenizer"]
        self.map_file = request.schedule if request.schedule and is_map(request.schedule) else None
        if request.schedule is not None and self.map_file is None:
            given = self._stretched(given)
        if parts["model"] is None:
            self.remarks += fitted_elsewhere(request.files, request.model)
        self.tokenizer = (
            load_tokenizer(request.tokenizer or request.model, trust_remote_code=request.trust_remote_code)
            if tokenizer is None
            else tokenizer
        )
        self.facts, self.original_length = self._facts(given)
        self.lengths = request.lengths or self._default_lengths()
        self.crop: Crop | None = None
        if request.controls and self.original_length is not None:
            self.crop = Crop.of(self.original_length, request.crop_stride)
        self.segments = self._segments() if request.reads_text else None
        self.not_asked: list[LeftOut] = []
        self.plan = self._plan(asked)
        self.forms = None if self.plan is None else self._forms(self.plan, asked)
        # After all that can be refused: loading is what takes minutes.
        self.model = self.loaded(request.model) if given is None else given
        self.budget_bytes: int | None = None
        self.hashes = self._bound(given)

    def _stretched(self, given: Any | None) -> Any:
        """The model as `extend --schedule` writes it, from a folder of links that is gone as soon as it is loaded."""
        from ropewalk.models.extend import extend

        if given is not None:
            raise UsageError(
                "a schedule file is put on a model by its name", hint="apply it to the loaded model instead"
            )
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as place:
            request, folder = self.request, Path(place) / "stretched"
            extend(
                request.model,
                output=folder,
                schedule=request.schedule,
                # Hard links would need the folder's own disk, and copies its space; this is read once and gone.
                weights="symlink",
                trust_remote_code=request.trust_remote_code,
            )
            return self.loaded(str(folder))

    def loaded(self, source: str) -> Any:
        """A model on this process's device, or spread over all of them."""
        from ropewalk.models.load import load_model

        request = self.request
        everywhere = request.device == ALL
        if everywhere and self.processes.world > 1:
            raise UsageError("every process would want all devices", hint="leave out accelerate launch")
        model = load_model(
            source,
            device="cpu" if everywhere else self.processes.device(request.device),
            dtype=own_dtype(source, request.dtype) if everywhere else request.dtype,
            attn=request.attn,
            trust_remote_code=request.trust_remote_code,
        )
        return spread(model) if everywhere else model

    def engine(self, model: Any) -> Engine:
        """An engine as every reader of this run has it: the same chunks and batches, so the same last bits."""
        engine = Engine(model, chunk=self.request.chunk)
        if self.budget_bytes is None:
            # The poorest process decides, so that all of them cut the same batches.
            self.budget_bytes = min(self.processes.gather(engine.budget_bytes))
        engine.budget_bytes = self.budget_bytes
        return engine

    def _facts(self, model: Any | None) -> tuple[Any | None, int | None]:
        """What the configuration says about rotation; a model without any can be measured, with its window given."""
        try:
            facts = read_facts(self.request.model if model is None else model.config.to_dict())
        except RopewalkError as error:
            if self.request.original_length is None:
                raise RopewalkError(error.message, hint="give its window with --original-length") from error
            return None, self.request.original_length
        return facts, self.request.original_length or facts.original_length

    def _default_lengths(self) -> list[int]:
        assert self.original_length is not None
        longest = self.original_length if self.facts is None else self.facts.max_position_embeddings
        if self.map_file is not None:
            longest = read_map(self.map_file).target_length
        # From half the window: what a model does inside it is what longer lengths are held against.
        return doublings(max(8, self.original_length // 2), max(longest, 8))

    def _segments(self) -> Segments:
        request = self.request
        longest = max(self.lengths)
        # A sliding window needs room to slide in.
        length = longest if request.protocol == "prefix" else request.span or 2 * longest
        if length < longest:
            raise UsageError(
                f"span={length} is shorter than length {longest}", hint="use a longer --span or leave it out"
            )
        documents = read_documents(request.text)
        found = cut(documents, self.tokenizer, length, limit=request.max_segments, join=request.join)
        self.remarks += found.remarks
        return found

    def _plan(self, asked: Sequence[int] | None) -> Plan | None:
        """All questions. Where `asked` was given and its shortest length holds no task, the longest alone is asked."""
        if not self.request.retrieval_tasks:
            return None
        try:
            return self._questions(asked or self.lengths)
        except UsageError as error:
            if asked is None or len(asked) < 2 or "does not fit" not in error.message:
                raise
            self.not_asked.append(LeftOut(name="retrieval inside the window", why=str(error)))
            return self._questions([max(asked)])

    def _questions(self, lengths: Sequence[int]) -> Plan:
        request = self.request
        # Written answers first; `Forms` turns those tasks to choice of which the first reader writes none.
        scoring = "teacher-forced" if request.scoring == AUTO else request.scoring
        return plan_tasks(self.tokenizer, asking_of(request, lengths), scoring=scoring, style=request.style)

    def _forms(self, plan: Plan, asked: Sequence[int] | None) -> Forms:
        """A comparison asks its first reader, the unmodified model: what that does past its window decides nothing."""
        shortest = min(sample.length for group in plan.groups for sample in group)
        inside = asked is None or self.original_length is None or shortest <= self.original_length
        return Forms(plan, open_to_choice=inside and self.request.scoring == AUTO)

    def _bound(self, given: Any | None) -> dict[str, str]:
        """Hashes of text, questions and weights, held against those of the run that goes on."""
        if not self.cells.keeps:
            return {}
        hashes, failure = dict[str, str](), None
        if self.processes.main:
            hashes["weights"] = (
                fingerprints.of_weights(self.request.model) if given is None else fingerprints.of_model(given)
            )
            if self.request.base is not None:
                hashes["base weights"] = fingerprints.of_weights(self.request.base)
            if self.segments is not None:
                hashes["text"] = self.segments.sha256
            if self.plan is not None:
                hashes["questions"] = fingerprints.of_questions(self.plan.groups)
            try:
                self.cells.bind_contents(hashes)
            except RopewalkError as error:
                failure = error
        self.processes.agree(failure)
        return hashes

    def measure(self, candidate: Candidate, *, model: Any | None = None, ask: bool = True) -> Measured:
        """Read the text and answer the questions as one reader, under its change of the model."""
        began, written = time.monotonic(), self.cells.written
        target = self.model if model is None else model
        with candidate.apply(target):
            engine = self.engine(target)
            reading = None if self.segments is None else self._read(engine, candidate)
            scores = self._answers(engine, candidate) if ask and self.plan is not None else []
        seconds = time.monotonic() - began
        return Measured(candidate, reading, scores, seconds, kept=self.cells.written == written)

    def reference_readings(self, source: str) -> tuple[Reading, Reading]:
        """Another model on the same tokens, whole and cropped: `--reference`, which chooses the key tokens."""
        model = self.loaded(source)
        both = [
            self.measure(Candidate(name, "control", cropped=near), model=model, ask=False).reading
            for name, near in zip(REFERENCES, (False, True), strict=True)
        ]
        assert both[0] is not None
        assert both[1] is not None
        return both[0], both[1]

    def answers(self, candidate: Candidate) -> list[SampleScore]:
        """The questions alone."""
        if self.plan is None:
            return []
        with candidate.apply(self.model):
            return self._answers(self.engine(self.model), candidate)

    def _read(self, engine: Engine, candidate: Candidate) -> Reading:
        """The text, read whole or on cropped context."""
        if candidate.cropped:
            assert self.segments is not None
            assert self.crop is not None
            units = cropped_units(engine, self.segments, self.crop, candidate.slug)
        else:
            units = self._units(engine, candidate.slug)
        self.watcher.plan(sum(unit.tokens for unit in units) // self.processes.world)
        self.watcher.begin(f"{candidate.name}: text")
        found = run_units(units, self.cells, self.processes, self.watcher.step)
        assert self.segments is not None
        count, label = len(self.segments.items), candidate.slug
        prefix = self.request.protocol == "prefix"
        if candidate.cropped:
            assert self.crop is not None
            stops = {length: length if prefix else self.segments.length for length in self.lengths}
            return cropped_reading(stops, found, self.crop, count, label)
        if prefix:
            return prefix_reading(engine, self.lengths, found, label, count)
        unweighted = self.request.window_mean
        return sliding_reading(
            self.segments, self.lengths, found, label, self.request.stride, unweighted=unweighted
        )

    def cropped_tail(self, candidate: Candidate, crop: Crop, first: int) -> list[LossArray]:
        """Losses of the tokens from `first` on with another crop than the control's."""
        assert self.segments is not None
        with candidate.apply(self.model):
            units = cropped_units(self.engine(self.model), self.segments, crop, candidate.slug, first=first)
            self.watcher.plan(sum(unit.tokens for unit in units) // self.processes.world)
            self.watcher.begin(f"{candidate.name} to {crop.length} tokens")
            found = run_units(units, self.cells, self.processes, self.watcher.step)
        return [found[crop_cell(candidate.slug, crop, first, i)] for i in range(len(self.segments.items))]

    def _units(self, engine: Engine, label: str) -> list[Unit]:
        assert self.segments is not None
        if self.request.protocol == "prefix":
            return prefix_units(engine, self.segments, self.lengths, label)
        stride = self.request.stride
        return [u for n in self.lengths for u in window_units(engine, self.segments, n, stride, label)]

    def _answers(self, engine: Engine, candidate: Candidate) -> list[SampleScore]:
        """Every question in the form in which its task counts; the first reader of a run decides the forms."""
        forms, had = self.forms, list[SampleScore]()
        assert forms is not None
        if forms.undecided:
            had = forms.decide(lambda plan: self._asked(engine, candidate, plan))
            self.remarks += forms.remarks
        return [score for plan in forms.plans for score in self._asked(engine, candidate, plan, had)]

    def _asked(
        self, engine: Engine, candidate: Candidate, plan: Plan, had: Sequence[SampleScore] = ()
    ) -> list[SampleScore]:
        """The scores of a plan; those that the run folder keeps, or that the reader `had`, are not asked for again."""
        reader = candidate.slug
        wanted = {sample.key for group in plan.groups for sample in group}
        kept = [*had, *(SampleScore.from_json(row) for row in self.cells.scores(reader))]
        course = Course(
            finished=[score for score in kept if score.key in wanted],
            on_score=lambda score: self.cells.keep_score(score.to_json(), reader),
            on_tokens=self.watcher.part(f"{candidate.name}: retrieval"),
        )
        share = (self.processes.rank, self.processes.world)
        failure: RopewalkError | None = None
        found: list[SampleScore] = []
        try:
            if candidate.cropped:
                assert self.crop is not None
                found = run_cropped(engine, self.tokenizer, plan, self.crop.length, course, share)
            else:
                found = run_plan(engine, self.tokenizer, plan, course, share)
        except RopewalkError as error:
            failure = error
        self.processes.agree(failure)
        return [score for part in self.processes.gather(found) for score in part]

    def text_used(self, seconds: float | None = None) -> TextUsed | None:
        """What was read, and how much of the text that is."""
        if self.segments is None:
            return None
        segments = self.segments
        return TextUsed(
            source=self.request.text or "held-out standard-library modules",
            documents=segments.documents,
            segments=len(segments.items),
            segment_length=segments.length,
            opening_tokens=len(segments.opening),
            joined=segments.joined,
            sha256=segments.sha256,
            tokens=len(segments.items) * segments.length,
            tokens_available=segments.tokens_available,
            segments_available=segments.segments_available,
            seconds=seconds,
        )
