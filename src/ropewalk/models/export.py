"""`ropewalk.export_config`: a schedule for a model as configuration fragments, one for each program that reads it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.models.carrier import Carried, carry
from ropewalk.models.config import read_config
from ropewalk.models.dialects import WRITERS, Dialect, Job
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.stretch import Stretch, own_stretch, stretch_for
from ropewalk.models.structure.values import shown
from ropewalk.schedule import FrequencySchedule


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
    made = _stretch(facts, method, factor=factor, target=target, parameters=parameters)
    schedule, length = made.schedule, made.target_length
    carried = carry(config, schedule, target_length=length, layers=layers)
    job = Job(facts, schedule, carried, length)
    dialects = tuple(writer(job) for writer in writers.values())
    name = str(source) if not isinstance(source, Mapping) else facts.text_type
    return ExportResult(
        name, schedule, length, carried.config, dialects, made.notes + _left_alone(facts, carried)
    )


def _stretch(
    facts: ModelFacts,
    method: str | FrequencySchedule | None,
    *,
    factor: float | None,
    target: str | int | None,
    parameters: Mapping[str, Any] | None,
) -> Stretch:
    """What was asked for; without a method, the scaling that the file already carries."""
    if isinstance(method, FrequencySchedule):
        return stretch_for(facts, target=target, schedule=method)
    if method is None and factor is None and target is None and not parameters:
        return own_stretch(facts)
    return stretch_for(facts, method, target=target, factor=factor, parameters=parameters)


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
