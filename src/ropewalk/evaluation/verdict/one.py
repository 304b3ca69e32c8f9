"""One model measured beside its controls, and what that comes to: the body of `eval`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.attended import from_map_file
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.controls import is_scaled, unmodified
from ropewalk.evaluation.forward.health import attention_health, gradient_norms, output_spread
from ropewalk.evaluation.local import Local, Measured
from ropewalk.evaluation.loss import key_tokens
from ropewalk.evaluation.loss.controls import tail_difference, with_difference
from ropewalk.evaluation.loss.reading import Reading, by_length, by_position
from ropewalk.evaluation.result import Controls, CurvePoint, EvalResult, LossRow
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.retrieval.scores import rows_of
from ropewalk.evaluation.verdict import words
from ropewalk.evaluation.verdict.effective import effective_length, long_tokens
from ropewalk.evaluation.verdict.kept import (
    check_caches,
    check_temperatures,
    measured_caches,
    measured_temperatures,
)
from ropewalk.models.structure.record import RECORD
from ropewalk.units import format_length

MODEL = Candidate("model", "control")
CROPPED = Candidate("cropped", "control", cropped=True)


class One:
    """The parts of an evaluation, in the order in which they can still share the loaded model."""

    def __init__(self, local: Local, base: Any | None) -> None:
        self.local, self.base = local, base
        self.request = local.request
        self.unmodified: Reading | None = None
        self.cropped_unmodified: Reading | None = None
        self.unmodified_is: str | None = None
        self.reader = self._reader()
        # What is measured last is checked first: nobody should hear of a misspelt name after an hour of reading.
        check_caches(self.request.cache)
        check_temperatures(self.request.temperatures, self.local.original_length)
        if self.request.health and self.local.segments is None:
            raise UsageError("health is measured on text", hint="add ppl to --tasks")
        self.caches: list[dict[str, Any]] = []
        self.temperatures: list[dict[str, Any]] = []

    def _reader(self) -> Candidate:
        """The model; under a position map where a file of one was given, which is code and no configuration."""
        local = self.local
        if local.map_file is None:
            return MODEL
        if local.facts is None:
            raise UsageError(
                "a map belongs to a rotation, and this model has none", hint="leave --schedule out"
            )
        if self.request.cache or self.request.temperatures or self.request.health:
            raise UsageError(
                "caches, temperatures and health are measured without a map",
                hint="leave --cache and --health out, or use compare",
            )
        return replace(from_map_file(local.map_file, local.facts), name=MODEL.name)

    @property
    def _owners(self) -> list[int] | None:
        return None if self.local.segments is None else self.local.segments.owners

    def measure(self) -> EvalResult:
        """Text, controls, retrieval, health."""
        local = self.local
        self._say_regime()
        cropped = None
        text = local.measure(self.reader, ask=False)
        if text.reading is not None and local.crop is not None:
            cropped = local.measure(CROPPED, ask=False).reading
        self._read_unmodified(text.reading)
        asked = local.answers(self.reader)
        self.caches = measured_caches(local, self.request.cache, text.reading)
        self.temperatures = measured_temperatures(local, self.request.temperatures, text.reading)
        health = self._health() if self.request.health else None
        if self.request.base is not None or self.base is not None:
            self._read_base(text.reading)
        return self._result(text, cropped, asked, health)

    def _say_regime(self) -> None:
        engine, local = self.local.engine(self.local.model), self.local
        regime = engine.regime
        if regime is not None and local.segments is not None:
            local.remarks.append(
                f"this model rotates differently past {format_length(regime.length)} tokens ({regime.kind}): "
                + (
                    "one forward for each side"
                    if regime.kind == "switch"
                    else "one forward for each longer length"
                )
            )
        if not engine.chunkable:
            local.remarks.append(
                "this model's cache does not continue a text exactly: every text is read whole"
            )

    def _read_unmodified(self, reading: Reading | None) -> None:
        """The same weights without their scaling, where this toolkit put it there; the model itself where none is."""
        based = self.request.base is not None or self.base is not None
        if reading is None or not self.request.controls or based:
            return
        scaling = self._own_scaling()
        facts = self.local.facts
        if self.local.map_file is not None and facts is not None:
            self.unmodified_is = "the same model without the map"
            self._read_controls(unmodified(facts), None)
        elif scaling is None:
            self.unmodified_is = "not known: give the unmodified model with --base"
        elif not scaling:
            self.unmodified, self.unmodified_is = reading, "the model itself: nothing scales its rotation"
        elif facts is not None:
            self.unmodified_is = "the same weights without the scaling"
            self._read_controls(unmodified(facts), None)

    def _own_scaling(self) -> bool | None:
        """Whether the configuration scales the rotation on this toolkit's behalf; None: somebody else scaled it."""
        facts = self.local.facts
        if facts is None or not is_scaled(facts):
            return False
        return True if RECORD in facts.config else None

    def _read_controls(self, candidate: Candidate, model: Any | None) -> None:
        """The unmodified model on the whole text, and on cropped context: what a user has who stretches nothing."""
        self.unmodified = self.local.measure(candidate, model=model, ask=False).reading
        if self.local.crop is not None:
            near = Candidate(f"cropped {candidate.name}", "control", candidate.apply, cropped=True)
            self.cropped_unmodified = self.local.measure(near, model=model, ask=False).reading

    @contextmanager
    def _base_model(self) -> Iterator[Any]:
        if self.base is not None:
            yield self.base
            return
        assert self.request.base is not None
        model = self.local.loaded(self.request.base)
        ours = self.local.model.get_input_embeddings().weight.shape[0]
        theirs = model.get_input_embeddings().weight.shape[0]
        if ours != theirs:
            raise UsageError(
                f"--base has {theirs} words, the model {ours}", hint="the base must read the same tokens"
            )
        yield model
        # Gone before anything else is loaded: two large models at once are what a machine has no room for.
        del model
        gc.collect()

    def _read_base(self, reading: Reading | None) -> None:
        if reading is None or not self.request.controls:
            return
        self.unmodified_is = self.request.base or "the given model"
        with self._base_model() as model:
            self._read_controls(Candidate("base", "control"), model)

    def _health(self) -> dict[str, Any] | None:
        local = self.local
        local.watcher.begin("health")

        def look() -> dict[str, Any]:
            assert local.segments is not None
            # Two texts are enough to see a failure that every text would show; each costs a backward a length.
            engine, ids = local.engine(local.model), [item.ids for item in local.segments.items[:2]]
            return {
                "attention": attention_health(engine, ids, local.lengths),
                "output": output_spread(engine, ids[0], local.lengths),
                "gradient": gradient_norms(engine, ids[0], local.lengths),
            }

        return local.processes.of_main(look)

    def _result(
        self, text: Measured, cropped: Reading | None, asked: list[Any], health: dict[str, Any] | None
    ) -> EvalResult:
        local, reading, owners = self.local, text.reading, self._owners
        loss = (
            []
            if reading is None
            else [LossRow(**row.to_json()) for row in by_length(reading, local.lengths, owners)]
        )
        controls = self._controls(reading, cropped)
        rows = rows_of(asked)
        by_size = retrieval_by_length(rows)
        effective = effective_length(
            local.lengths,
            asked,
            reading,
            [control for control in (cropped, self.cropped_unmodified) if control is not None],
            owners,
            threshold=self.request.threshold,
        )
        keys = self._keys(reading, cropped)
        used = local.text_used(round(text.seconds, 3) if not text.kept else None)
        return EvalResult(
            model=self.request.model,
            protocol=self.request.protocol,
            original_length=local.original_length,
            lengths=local.lengths,
            loss=loss,
            loss_by_position=[]
            if reading is None
            else [CurvePoint(**point) for point in by_position(reading.longest, owners)],
            controls=controls,
            retrieval=rows,
            retrieval_by_length=by_size,
            effective_length=effective["length"],
            effective=effective,
            key_token_loss=None if keys is None else keys["loss"],
            key_tokens=keys,
            long_tokens=self._long_tokens(reading, cropped),
            caches=self.caches,
            temperatures=self.temperatures,
            health=health,
            text=used,
            verdict=[
                *words.text_verdict(loss, controls, local.original_length),
                *words.retrieval_verdict(by_size),
                *words.key_verdict(keys),
                *words.effective_verdict(effective),
            ],
            next=words.next_step(self.request.model, local.lengths, loss, controls, effective),
            remarks=local.remarks,
            request=self.request.model_copy(update={"hashes": local.hashes}),
        )

    def _controls(self, reading: Reading | None, cropped: Reading | None) -> Controls:
        crop = None if cropped is None else self.local.crop
        return Controls(
            cropped=self._control_rows(reading, cropped),
            cropped_unmodified=self._control_rows(reading, self.cropped_unmodified),
            unmodified=self._control_rows(reading, self.unmodified),
            crop_length=crop.length if crop else None,
            crop_stride=crop.stride if crop else None,
            contexts=crop.contexts if crop else None,
            unmodified_is=self.unmodified_is,
        )

    def _control_rows(self, reading: Reading | None, control: Reading | None) -> list[LossRow]:
        if reading is None or control is None:
            return []
        return [
            LossRow(**with_difference(row, tail_difference(reading, control, row.length, self._owners)))
            for row in by_length(control, self.local.lengths, self._owners)
        ]

    def _long_tokens(self, reading: Reading | None, cropped: Reading | None) -> list[dict[str, Any]]:
        local = self.local
        if reading is None or cropped is None or local.segments is None or local.original_length is None:
            return []
        ids = [item.ids for item in local.segments.items]
        return long_tokens(ids, reading, cropped, local.lengths, local.original_length)

    def _keys(self, reading: Reading | None, cropped: Reading | None) -> dict[str, Any] | None:
        """Loss on key tokens at the longest length; the reference is `--reference`, or the model itself."""
        local, longest = self.local, max(self.local.lengths)
        window = local.original_length
        if reading is None or cropped is None or window is None or longest <= window:
            return None
        near = self.cropped_unmodified or cropped
        far, short, names = reading, near, ("the model itself", "its cropped context")
        if self.request.reference is not None:
            far, short = self.local.reference_readings(self.request.reference)
            names = (self.request.reference, "its cropped context")
        keys = key_tokens.choose(
            far,
            short,
            longest,
            window,
            names=names,
            bounds=(self.request.key_gain, self.request.key_floor),
            owners=self._owners,
        )
        found = key_tokens.key_token_loss(reading, keys, longest, self._owners)
        beside = key_tokens.key_token_loss(near, keys, longest, self._owners)
        return keys.to_json() | {
            "loss": None if found is None else found.mean,
            "ci": None if found is None else found.floored().pair,
            "cropped_loss": None if beside is None else beside.mean,
        }
