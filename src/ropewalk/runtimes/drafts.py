"""Companion models for speculative decoding: a draft must rotate like its target, or its guesses are worth nothing
past the original window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, one_line
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Draft:
    """One companion: where it is, the schedule that makes it rotate like its target (None where it needs none, or
    where none can be made), whether it is alike then, and in words why."""

    source: str
    schedule: FrequencySchedule | None
    target_length: int
    alike: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Without the frequencies."""
        return {
            "source": self.source,
            "method": None if self.schedule is None else self.schedule.method,
            "factor": None if self.schedule is None else self.schedule.factor,
            "alike": self.alike,
            "detail": self.detail,
        }


def matched(facts: ModelFacts, schedule: FrequencySchedule, target_length: int, source: str | Path) -> Draft:
    """The companion at `source` on its way to the target's window, by the target's method.

    The same geometry gets the very same schedule. Another one gets the same method and parameters on its own, by the
    factor that brings its own original window to the same target. Lists and bases belong to one geometry and cannot
    be repeated on another.
    """
    name = str(source)
    try:
        own = read_facts(source)
    except RopewalkError as error:
        return Draft(
            name, None, target_length, False, f"its configuration cannot be read: {one_line(error, 200)}"
        )
    if own.geometry == facts.geometry:
        said = "the same geometry and the same schedule"
        return Draft(name, schedule, target_length, True, said)
    shape = (own.geometry.half_dim, own.geometry.rope_theta, own.original_length)
    if own.original_length >= target_length:
        return Draft(
            name,
            None,
            target_length,
            True,
            f"its own window of {own.original_length} tokens holds the target",
        )
    parameters = dict(schedule.parameters)
    if "rope_theta" in parameters or any(isinstance(value, list) for value in parameters.values()):
        said = f"{schedule.method} with numbers of one geometry cannot be repeated on its own {shape}"
        return Draft(name, None, target_length, False, said)
    factor = target_length / own.original_length
    try:
        made = make_schedule(schedule.method, own.geometry, factor=factor, **parameters)
    except RopewalkError as error:
        return Draft(name, None, target_length, False, one_line(error, 200))
    said = f"the same method on its own geometry, factor {factor:g}: near its target, not equal to it"
    return Draft(name, made, target_length, True, said)
