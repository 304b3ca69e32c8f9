"""One candidate: a name, what kind of change it is, and how it is put on a model for as long as it is measured."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ropewalk.analysis import effective_factor
from ropewalk.errors import UsageError
from ropewalk.schedule import FrequencySchedule

# What a candidate changes: nothing (a control), the frequencies, attention by distance, positions, how sharp attention
# is, what is kept.
KINDS = ("control", "schedule", "zones", "position-map", "temperature", "cache")

Apply = Callable[[Any], AbstractContextManager[Any]]


def unchanged(model: Any) -> AbstractContextManager[Any]:
    """The model as it is."""
    return nullcontext(model)


@dataclass(frozen=True)
class Candidate:
    """A model under one change. `apply(model)` is a context manager; leaving it restores the model.

    `cropped` reads every token with the last `original_length` tokens alone. `variant` tells forms of one method apart:
    `default`, `reaching` (the nominal factor at which no pair leaves the angles that training saw), `fitted betas`,
    `file`, `as is`. `same_as` names further labels whose schedule is equal, so that nothing is measured twice.
    `plan` is the map of zones and position maps, `nearest` the single table beside it that stock programs can carry.
    """

    name: str
    kind: str = "schedule"
    apply: Apply = unchanged
    cropped: bool = False
    schedule: FrequencySchedule | None = None
    variant: str = "default"
    needs_training: bool = False
    same_as: tuple[str, ...] = ()
    file: str | None = None
    plan: Any = None
    nearest: FrequencySchedule | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"kind={self.kind!r} of candidate {self.name!r} is unknown",
                hint=f"use one of {', '.join(KINDS)}",
            )

    @property
    def slug(self) -> str:
        """The label as a file name; one without a letter of ASCII by its hash, since it must have some name."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return plain or hashlib.sha256(self.name.encode("utf-8", "replace")).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """What identifies the candidate in a result; what only a schedule has is None for the others."""
        made = self.schedule
        # Infinite where no pair ever leaves the angles that training showed; JSON has no word for it.
        reach = math.inf if made is None else effective_factor(made)
        return {
            "name": self.name,
            "kind": self.kind,
            "method": None if made is None else made.method,
            "variant": self.variant,
            "factor": None if made is None else made.factor,
            "parameters": {} if made is None else made.settings,
            "attention_factor": None if made is None else made.attention_factor,
            "effective_factor": reach if math.isfinite(reach) else None,
            "needs_training": self.needs_training,
            "same_as": list(self.same_as),
            "file": self.file,
        }


def scheduled(name: str, schedule: FrequencySchedule, **about: Any) -> Candidate:
    """A candidate that is a frequency schedule."""

    def put(model: Any) -> AbstractContextManager[Any]:
        from ropewalk.models.apply import apply

        applied: AbstractContextManager[Any] = apply(model, schedule)
        return applied

    return Candidate(name, apply=put, schedule=schedule, **about)
