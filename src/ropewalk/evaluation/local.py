"""An evaluation of a model on this machine, part by part."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.forward.spread import ALL, own_dtype, spread
from ropewalk.evaluation.loss.controls import Crop, tail_difference, with_difference
from ropewalk.evaluation.loss.reading import Reading, by_length, by_position
from ropewalk.evaluation.loss.units import (
    Unit,
    cropped_reading,
    cropped_units,
    prefix_reading,
    prefix_units,
    run_units,
    sliding_reading,
    window_units,
)
from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.result import Controls, CurvePoint, EvalResult, LossRow, TextUsed
from ropewalk.evaluation.retrieval.inputs import haystack_of, questions_of
from ropewalk.evaluation.retrieval.run import Plan, plan_tasks, run_plan
from ropewalk.evaluation.retrieval.scores import SampleScore, rows_of
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.verdict import words as verdict
from ropewalk.evaluation.verdict.effective import effective_length, long_tokens
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.processes import Processes
from ropewalk.evaluation.work.watch import Watcher
from ropewalk.text.corpus import read_documents
from ropewalk.text.segments import Segments, cut
from ropewalk.units import format_length


class Local:
    """One evaluation. Everything that can be refused is refused before the first forward."""

    def __init__(
        self,
        request: EvalRequest,
        parts: dict[str, Any],
        cells: Cells,
        processes: Processes,
        watcher: Watcher,
    ) -> None:
        from ropewalk.models.load import load_model, load_tokenizer

        self.request, self.cells, self.processes, self.watcher = request, cells, processes, watcher
        self.base = parts["base"]
        self.remarks: list[str] = []
        self.unmodified: Reading | None = None
        self.cropped_unmodified: Reading | None = None
        self.unmodified_is: str | None = None
        tokenizer = parts["tokenizer"]
        self.tokenizer = (
            load_tokenizer(request.tokenizer or request.model) if tokenizer is None else tokenizer
        )
        self.facts, self.original_length = self._facts(parts["model"])
        self.lengths = request.lengths or self._default_lengths()
        self.segments = self._segments() if request.reads_text else None
        self.plan = self._plan()
        self._load = load_model
        model = parts["model"]
        self.engine = Engine(self._loaded(request.model) if model is None else model, chunk=request.chunk)
        self.engine.budget_bytes = min(processes.gather(self.engine.budget_bytes))
        self._say_regime()

    def _loaded(self, source: str) -> Any:
        request = self.request
        everywhere = request.device == ALL
        if everywhere and self.processes.world > 1:
            raise UsageError("every process would want all devices", hint="leave out accelerate launch")
        model = self._load(
            source,
            device="cpu" if everywhere else self.processes.device(request.device),
            dtype=own_dtype(source, request.dtype) if everywhere else request.dtype,
            attn=request.attn,
            trust_remote_code=request.trust_remote_code,
        )
        return spread(model) if everywhere else model

    def _facts(self, model: Any | None) -> tuple[Any | None, int | None]:
        """What the configuration says about rotation; a model without any can be measured, with its window given."""
        from ropewalk.models.facts import read_facts

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
        lengths, length = [], max(8, self.original_length // 2)
        while length < longest:
            lengths.append(length)
            length *= 2
        return [*lengths, max(longest, 8)]

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

    def _plan(self) -> Plan | None:
        request = self.request
        if not request.retrieval_tasks:
            return None
        return plan_tasks(
            self.tokenizer,
            tasks=request.retrieval_tasks,
            lengths=self.lengths,
            depths=request.depths,
            samples=request.samples,
            seed=request.seed,
            scoring=request.scoring,
            style=request.style,
            grid=request.grid,
            haystack=haystack_of(request),
            questions=questions_of(request),
        )

    def _say_regime(self) -> None:
        regime = self.engine.regime
        if regime is not None and self.segments is not None:
            self.remarks.append(
                f"this model rotates differently past {format_length(regime.length)} tokens ({regime.kind}): "
                + (
                    "one forward for each side"
                    if regime.kind == "switch"
                    else "one forward for each longer length"
                )
            )
        if not self.engine.chunkable:
            self.remarks.append(
                "this model's cache does not continue a text exactly: every text is read whole"
            )

    def measure(self) -> EvalResult:
        """All parts, in the order in which they can still share the loaded model."""
        reading, cropped = self._read_text()
        self._read_unmodified(reading)
        scores = self._read_retrieval()
        health = self._health() if self.request.health else None
        if self.request.base is not None or self.base is not None:
            self._read_base(reading)
        return self._result(reading, cropped, scores, health)

    def _units(self, engine: Engine, label: str) -> list[Unit]:
        assert self.segments is not None
        if self.request.protocol == "prefix":
            return prefix_units(engine, self.segments, self.lengths, label)
        stride = self.request.stride
        return [u for n in self.lengths for u in window_units(engine, self.segments, n, stride, label)]

    def _read_controls(self, engine: Engine, label: str, like: Reading) -> None:
        """The unmodified model on the whole text, and on cropped context: what a user has who stretches nothing."""
        assert self.segments is not None
        crop = self._crop()
        cropped = cropped_units(engine, self.segments, crop, f"{label}-cropped") if crop else []
        self.watcher.plan(
            sum(unit.tokens for unit in [*self._units(engine, label), *cropped]) // self.processes.world
        )
        self.watcher.begin("unmodified control")
        self.unmodified = self._reading(engine, label)
        if crop is not None:
            found = run_units(cropped, self.cells, self.processes, self.watcher.step)
            count = len(self.segments.items)
            self.cropped_unmodified = cropped_reading(like, found, crop, count, f"{label}-cropped")

    def _reading(self, engine: Engine, label: str) -> Reading:
        """Read the text with one engine under the chosen protocol."""
        assert self.segments is not None
        units = self._units(engine, label)
        found = run_units(units, self.cells, self.processes, self.watcher.step)
        if self.request.protocol == "prefix":
            return prefix_reading(engine, self.lengths, found, label, len(self.segments.items))
        unweighted = self.request.window_mean
        return sliding_reading(
            self.segments, self.lengths, found, label, self.request.stride, unweighted=unweighted
        )

    def _read_text(self) -> tuple[Reading | None, Reading | None]:
        if self.segments is None:
            return None, None
        crop = self._crop()
        units = cropped_units(self.engine, self.segments, crop) if crop else []
        share = self.processes.world
        self.watcher.plan(sum(unit.tokens for unit in [*self._units(self.engine, "model"), *units]) // share)
        self.watcher.begin("text")
        reading = self._reading(self.engine, "model")
        if crop is None:
            return reading, None
        self.watcher.begin("cropped control")
        found = run_units(units, self.cells, self.processes, self.watcher.step)
        return reading, cropped_reading(reading, found, crop, len(self.segments.items))

    def _crop(self) -> Crop | None:
        if not self.request.controls or self.original_length is None:
            return None
        return Crop.of(self.original_length, self.request.crop_stride)

    def _read_unmodified(self, reading: Reading | None) -> None:
        """The same weights without their scaling, where this toolkit put it there; the model itself where none is."""
        based = self.request.base is not None or self.base is not None
        if reading is None or not self.request.controls or based:
            return
        scaling = self._own_scaling()
        if scaling is None:
            self.unmodified_is = "not known: give the unmodified model with --base"
        elif not scaling:
            self.unmodified, self.unmodified_is = reading, "the model itself: nothing scales its rotation"
        else:
            from ropewalk.methods import schedule
            from ropewalk.models.apply import apply

            assert self.facts is not None
            self.unmodified_is = "the same weights without the scaling"
            with apply(self.engine.model, schedule("none", self.facts.geometry, factor=1.0)):
                plain = Engine(self.engine.model, chunk=self.request.chunk)
                plain.budget_bytes = self.engine.budget_bytes
                self._read_controls(plain, "unmodified", reading)

    def _own_scaling(self) -> bool | None:
        """Whether the configuration scales the rotation on this toolkit's behalf; None: somebody else scaled it."""
        from ropewalk.models.structure.record import RECORD

        if self.facts is None:
            return False
        if not any(rope.is_scaled for rope in self.facts.ropes.values()):
            return False
        return True if RECORD in self.facts.config else None

    @contextmanager
    def _base_engine(self) -> Iterator[Engine]:
        if self.base is not None:
            yield Engine(self.base, chunk=self.request.chunk)
            return
        assert self.request.base is not None
        engine = Engine(self._loaded(self.request.base), chunk=self.request.chunk)
        if engine.vocab_size != self.engine.vocab_size:
            raise UsageError(
                f"--base has {engine.vocab_size} words, the model {self.engine.vocab_size}",
                hint="the base must read the same tokens",
            )
        yield engine
        del engine
        gc.collect()

    def _read_base(self, reading: Reading | None) -> None:
        if reading is None or not self.request.controls:
            return
        self.unmodified_is = self.request.base or "the given model"
        with self._base_engine() as engine:
            engine.budget_bytes = self.engine.budget_bytes
            self._read_controls(engine, "base", reading)

    def _read_retrieval(self) -> list[SampleScore]:
        if self.plan is None:
            return []
        wanted = {sample.key for group in self.plan.groups for sample in group}
        kept = [SampleScore.from_json(row) for row in self.cells.scores()]
        kept = [score for score in kept if score.key in wanted]
        self.watcher.begin("retrieval")
        told = [0, 0]

        def on_tokens(done: int, total: int) -> None:
            self.watcher.plan(total - told[1])
            self.watcher.step(done - told[0])
            told[:] = [done, total]

        failure: RopewalkError | None = None
        found: list[SampleScore] = []
        try:
            found = run_plan(
                self.engine,
                self.tokenizer,
                self.plan,
                finished=kept,
                on_score=lambda score: self.cells.keep_score(score.to_json()),
                on_tokens=on_tokens,
                share=(self.processes.rank, self.processes.world),
            )
        except RopewalkError as error:
            failure = error
        self.processes.agree(failure)
        return [score for part in self.processes.gather(found) for score in part]

    def _health(self) -> dict[str, Any] | None:
        from ropewalk.evaluation.forward.health import attention_health, gradient_norms, output_spread

        self.watcher.begin("health")
        if self.segments is None:
            raise UsageError("health is measured on text", hint="add ppl to --tasks")
        document: dict[str, Any] | None = None
        failure: RopewalkError | None = None
        if self.processes.main:
            ids = [item.ids for item in self.segments.items[:2]]
            try:
                document = {
                    "attention": attention_health(self.engine, ids, self.lengths),
                    "output": output_spread(self.engine, ids[0], self.lengths),
                    "gradient": gradient_norms(self.engine, ids[0], self.lengths),
                }
            except RopewalkError as error:
                failure = error
        self.processes.agree(failure)
        return self.processes.gather(document)[0]

    def _result(
        self,
        reading: Reading | None,
        cropped: Reading | None,
        scores: list[SampleScore],
        health: dict[str, Any] | None,
    ) -> EvalResult:
        owners = None if self.segments is None else self.segments.owners
        loss = (
            []
            if reading is None
            else [LossRow(**r.to_json()) for r in by_length(reading, self.lengths, owners)]
        )
        controls = self._controls(reading, cropped)
        rows = rows_of(scores)
        by_size = retrieval_by_length(rows)
        effective = effective_length(
            self.lengths, rows, reading, cropped, owners, cropped_unmodified=self.cropped_unmodified
        )
        return EvalResult(
            model=self.request.model,
            protocol=self.request.protocol,
            original_length=self.original_length,
            lengths=self.lengths,
            loss=loss,
            loss_by_position=[]
            if reading is None
            else [CurvePoint(**p) for p in by_position(reading.longest, owners)],
            controls=controls,
            retrieval=rows,
            retrieval_by_length=by_size,
            effective_length=effective["length"],
            effective=effective,
            long_tokens=self._long_tokens(reading, cropped),
            health=health,
            text=self._text_used(),
            verdict=[
                *verdict.text_verdict(loss, controls, self.original_length),
                *verdict.retrieval_verdict(by_size),
                *verdict.effective_verdict(effective),
            ],
            next=verdict.next_step(self.request.model, self.lengths, loss, controls, effective),
            remarks=self.remarks,
            request=self.request,
        )

    def _controls(self, reading: Reading | None, cropped: Reading | None) -> Controls:
        crop = None if cropped is None else self._crop()
        return Controls(
            cropped=self._control_rows(reading, cropped),
            cropped_unmodified=self._control_rows(reading, self.cropped_unmodified),
            unmodified=self._control_rows(reading, self.unmodified),
            crop_length=crop.length if crop else None,
            crop_stride=crop.stride if crop else None,
            contexts=crop.contexts if crop else None,
            unmodified_is=self.unmodified_is,
        )

    def _long_tokens(self, reading: Reading | None, cropped: Reading | None) -> list[dict[str, Any]]:
        if reading is None or cropped is None or self.segments is None or self.original_length is None:
            return []
        ids = [item.ids for item in self.segments.items]
        return long_tokens(ids, reading, cropped, self.lengths, self.original_length)

    def _control_rows(self, reading: Reading | None, control: Reading | None) -> list[LossRow]:
        if reading is None or control is None or self.segments is None:
            return []
        owners = self.segments.owners
        return [
            LossRow(**with_difference(row, tail_difference(reading, control, row.length, owners)))
            for row in by_length(control, self.lengths, owners)
        ]

    def _text_used(self) -> TextUsed | None:
        if self.segments is None:
            return None
        source = self.request.text or "held-out standard-library modules"
        return TextUsed(
            source=source,
            documents=self.segments.documents,
            segments=len(self.segments.items),
            segment_length=self.segments.length,
            opening_tokens=len(self.segments.opening),
            joined=self.segments.joined,
            sha256=self.segments.sha256,
        )
