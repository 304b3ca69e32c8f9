"""`ropewalk.export_config`: a schedule for a model as configuration fragments, one for each program that reads it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods import find_method
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.carrier import Carried, carry
from ropewalk.models.config import read_config
from ropewalk.models.dialects import WRITERS, Dialect, Job
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.structure.values import shown
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import parse_target


@dataclass(frozen=True)
class ExportResult:
    """A schedule, the whole configuration that carries it, and the fragments for each reader."""

    source: str
    schedule: FrequencySchedule
    target_length: int
    config: dict[str, Any]
    dialects: tuple[Dialect, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document of `export --json`."""
        return {
            "source": self.source,
            "target_length": self.target_length,
            "schedule": self.schedule.to_json(),
            "dialects": [dialect.to_json() for dialect in self.dialects],
            "notes": list(self.notes),
        }


def export_config(
    source: str | Path | Mapping[str, Any],
    method: str | FrequencySchedule | None = None,
    *,
    factor: float | None = None,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
    to: str | None = None,
    layers: str = "full",
) -> ExportResult:
    """A model's stretch by a method, as each reader wants it written.

    Give `factor`, or `target` (32768, "32k", "8x"), or both when the window should differ from factor times the
    original. `method` may be a ready schedule; without one, the scaling that the file already carries is translated.
    The factor always counts from the ORIGINAL window. `to` restricts the result to one reader.
    """
    writers = _writers(to)
    config = source if isinstance(source, Mapping) else read_config(source)
    facts = read_facts(config)
    length = None if target is None else parse_target(target, facts.original_length)
    schedule, remarks = planned(
        facts, method, factor=factor, target_length=length, parameters=parameters or {}
    )
    length = length or (facts.max_position_embeddings if method is None else schedule.target_length)
    carried = carry(config, schedule, target_length=length, layers=layers)
    job = Job(facts, schedule, carried, length)
    dialects = tuple(writer(job) for writer in writers.values())
    name = str(source) if not isinstance(source, Mapping) else facts.text_type
    return ExportResult(
        name, schedule, length, carried.config, dialects, remarks + _left_alone(facts, carried)
    )


def planned(
    facts: ModelFacts,
    method: str | FrequencySchedule | None,
    *,
    factor: float | None,
    target_length: int | None,
    parameters: Mapping[str, Any],
) -> tuple[FrequencySchedule, tuple[str, ...]]:
    """The schedule that was asked for on a model's original geometry, with remarks on what it replaces or inherits."""
    if isinstance(method, FrequencySchedule):
        return method, ()
    if method is None:
        if factor is not None or parameters or target_length is not None:
            raise UsageError(
                "a stretch without a method", hint="give --method too (`ropewalk methods` lists them)"
            )
        if facts.rope.schedule is None or not facts.rope.is_scaled:
            reason = facts.rope.problem or "its configuration asks for no scaling"
            raise RopewalkError(
                f"nothing to export: {reason}", hint="give --method with --factor or --target"
            )
        return facts.rope.schedule, ()
    find_method(method)
    if factor is None and target_length is None:
        raise UsageError(f"method {shown(method)} needs a stretch", hint="give --factor 8, or --target 32k")
    inherited = {
        name: value for name, value in facts.rope.inherited(method).items() if name not in parameters
    }
    wanted = dict(parameters)
    wanted |= inherited
    stretch = factor if factor is not None else (target_length or 0) / facts.original_length
    return make_schedule(method, facts.geometry, factor=stretch, **wanted), _remarks(facts, inherited)


def _remarks(facts: ModelFacts, inherited: Mapping[str, Any]) -> tuple[str, ...]:
    rope, remarks = facts.rope, []
    if rope.is_scaled:
        remarks.append(
            f"the file already stretches by {rope.factor:g} ({rope.rope_type}); the new factor replaces it and "
            f"counts from the original {facts.original_length} tokens"
        )
    plain = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    kept = {name: value for name, value in inherited.items() if plain.get(name) != value}
    if kept:
        remarks.append(
            "kept from the file: " + ", ".join(f"{name}={value:g}" for name, value in kept.items())
        )
    return tuple(remarks)


def _left_alone(facts: ModelFacts, carried: Carried) -> tuple[str, ...]:
    others = [label for label in facts.ropes if label not in carried.entries]
    return (
        (f"{', '.join(others)} keeps its own frequencies (--layers all changes them too)",) if others else ()
    )


def _writers(to: str | None) -> dict[str, Any]:
    if to is None:
        return dict(WRITERS)
    if to not in WRITERS:
        near = difflib.get_close_matches(to, WRITERS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(WRITERS)}"
        raise UsageError(f"no reader {shown(to)}", hint=hint)
    return {to: WRITERS[to]}
