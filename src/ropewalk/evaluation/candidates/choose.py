"""What is compared: every method with its defaults, and the variants that a geometry asks for, each schedule once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.evaluation.result import LeftOut
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.methods import find_method, methods
from ropewalk.planning.variants import default_of, fitted, reaching


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
            left_out.append(
                LeftOut(name=name, why="needs training: zero-shot figures would say nothing about it")
            )
            continue
        own = (kept or {}).get(name, {})
        try:
            forms = [default_of(name, geometry, factor, own)]
        except RopewalkError as error:
            if not everything:
                raise
            left_out.append(LeftOut(name=name, why=str(error)))
            continue
        forms += reaching(name, geometry, factor) + fitted(name, geometry, factor, own)
        needs = methods()[name].needs_training
        made += [
            scheduled(
                form.label,
                form.schedule,
                variant=form.kind,
                needs_training=needs and form.kind == "default",
            )
            for form in forms
        ]
    return merged(made), left_out


def merged(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates with equal frequencies and attention factor as one, the first label leading."""
    kept: list[Candidate] = []
    for candidate in candidates:
        twin = next((i for i, other in enumerate(kept) if _twins(other, candidate)), None)
        if twin is None:
            kept.append(candidate)
        else:
            kept[twin] = replace(kept[twin], same_as=(*kept[twin].same_as, candidate.name))
    return kept


def _twins(one: Candidate, other: Candidate) -> bool:
    first, second = one.schedule, other.schedule
    # Only among schedules: the unmodified control has frequencies too, and is no row that another could be.
    if first is None or second is None or {one.kind, other.kind} != {"schedule"}:
        return False
    return (
        _close(first.inv_freq, second.inv_freq)
        and _close(first.short_inv_freq, second.short_inv_freq)
        and math.isclose(first.attention_factor, second.attention_factor, rel_tol=1e-9)
    )


def _close(one: FloatArray | None, other: FloatArray | None) -> bool:
    if one is None or other is None:
        return one is other
    # Relative alone: the slowest pairs turn by less than any absolute tolerance that would suit the fast ones.
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))
