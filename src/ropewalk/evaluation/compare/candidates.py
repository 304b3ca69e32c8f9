"""What is compared: every method with its defaults, and the variants that a geometry asks for, each schedule once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ropewalk.analysis import effective_factor
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.methods import find_method, methods
from ropewalk.planning.variants import default_of, fitted, reaching
from ropewalk.schedule import FrequencySchedule

UNMODIFIED, CROPPED = "unmodified", "cropped"


@dataclass(frozen=True)
class Candidate:
    """One schedule under one label.

    `variant` is `default`, `reaching` (the nominal factor at which no pair leaves the angles that training saw) or
    `fitted betas` (a ramp that follows a window in which few pairs turn 32 times). `same_as` names further labels
    whose frequencies and attention factor are equal, so that nothing is measured twice.
    """

    name: str
    variant: str
    schedule: FrequencySchedule
    needs_training: bool = False
    same_as: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def to_json(self) -> dict[str, Any]:
        """What identifies the candidate in a result."""
        made = self.schedule
        reach = effective_factor(made)
        return {
            "name": self.name,
            "method": made.method,
            "variant": self.variant,
            "factor": made.factor,
            "parameters": made.settings,
            "attention_factor": made.attention_factor,
            "effective_factor": reach if math.isfinite(reach) else None,
            "needs_training": self.needs_training,
            "same_as": list(self.same_as),
        }


@dataclass(frozen=True)
class LeftOut:
    """A method that is not measured, and why."""

    name: str
    why: str


def choose(
    wanted: str | Sequence[str],
    geometry: RopeGeometry,
    factor: float,
    kept: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Candidate], list[LeftOut]]:
    """The candidates for `all`, or for the named methods, and what is left out with the reason.

    With `all`, methods that need training are left out: zero-shot figures would only say that they were not trained.
    One that is asked for by name is measured all the same, and marked. `none` is the unmodified control. `kept` holds,
    by method, parameters that the model's own configuration sets (a YaRN model's mscales).
    """
    everything = wanted == "all" or list(wanted) == ["all"]
    if everything:
        names = [name for name in methods() if name != "none"]
    else:
        names = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
        for name in names:
            find_method(name)
        names = [name for name in names if name != "none"]
    if not names:
        raise UsageError("no method to compare", hint="name one or more, or write all")
    made: list[Candidate] = []
    left_out: list[LeftOut] = []
    for name in names:
        if everything and methods()[name].needs_training:
            left_out.append(LeftOut(name, "needs training: zero-shot figures would say nothing about it"))
            continue
        own = (kept or {}).get(name, {})
        try:
            forms = [default_of(name, geometry, factor, own)]
        except RopewalkError as error:
            if not everything:
                raise
            left_out.append(LeftOut(name, str(error)))
            continue
        forms += reaching(name, geometry, factor) + fitted(name, geometry, factor, own)
        needs = methods()[name].needs_training
        made += [
            Candidate(form.label, form.kind, form.schedule, needs and form.kind == "default")
            for form in forms
        ]
    return merged(made), left_out


def merged(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates with equal frequencies and attention factor as one, the first label leading."""
    kept: list[Candidate] = []
    for candidate in candidates:
        twin = next((i for i, other in enumerate(kept) if _equal(other.schedule, candidate.schedule)), None)
        if twin is None:
            kept.append(candidate)
        else:
            kept[twin] = replace(kept[twin], same_as=(*kept[twin].same_as, candidate.name))
    return kept


def _equal(one: FrequencySchedule, other: FrequencySchedule) -> bool:
    return (
        _close(one.inv_freq, other.inv_freq)
        and _close(one.short_inv_freq, other.short_inv_freq)
        and math.isclose(one.attention_factor, other.attention_factor, rel_tol=1e-9)
    )


def _close(one: FloatArray | None, other: FloatArray | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))
