"""Candidates that work at attention time: position maps, zones, temperatures, and caches that keep less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.choose import LeftOut, choose, merged
from ropewalk.evaluation.candidates.controls import UNMODIFIED, unmodified
from ropewalk.map_files import nearest_table
from ropewalk.map_table import MAPS
from ropewalk.models.facts import ModelFacts
from ropewalk.position_maps import DualChunk, PositionMap, map_for
from ropewalk.schedule import FrequencySchedule

WITH = "+"


def named(names: Sequence[str], facts: ModelFacts, target: int) -> tuple[list[Candidate], list[LeftOut]]:
    """Rows by name: methods (with their variants), position maps (`zones`, `self-extend`, ...), and either of them
    at an attention temperature (`yarn+log-n`) or read through a cache (`yarn+q4`, `zones+log-n+sinks:4+2k`)."""
    from ropewalk.models.stretch import kept_parameters

    plain = [name for name in names if WITH not in name and name not in MAPS]
    factor = target / facts.original_length
    kept = kept_parameters(facts)
    found, left_out = choose(plain, facts.geometry, factor, kept) if plain else ([], [])
    for name in names:
        if WITH in name:
            found.append(_with(name, facts, target, kept))
        elif name in MAPS:
            found.append(mapped(name, facts, target))
    return merged(found), left_out


def _with(name: str, facts: ModelFacts, target: int, kept: Mapping[str, Mapping[str, Any]]) -> Candidate:
    """`below+temperature+cache`: a temperature, a cache, or both in this order."""
    from ropewalk.attention.tempers import is_temper

    below, _, rest = name.partition(WITH)
    factor = target / facts.original_length
    made = (
        mapped(below, facts, target)
        if below in MAPS
        else unmodified(facts)
        if below in ("none", UNMODIFIED)
        # Its default form: a variant is a row of its own, and this name does not ask for one.
        else choose([below], facts.geometry, factor, kept)[0][0]
    )
    first, _, more = rest.partition(WITH)
    if is_temper(first):
        made = tempered(made, first, facts, factor)
        rest = more
        if not rest:
            return made
    return cached(made, rest)


def tempered(below: Candidate, name: str, facts: ModelFacts, factor: float) -> Candidate:
    """A candidate at an attention temperature."""
    from ropewalk.attention.tempers import parse_temper

    # Read now: a missing file should not come to light after an hour of other rows.
    temper = parse_temper(name)

    @contextmanager
    def put(model: Any) -> Iterator[None]:
        with below.apply(model), temper.applied(model, factor, facts.original_length):
            yield

    return Candidate(f"{below.name}{WITH}{name}", "temperature", put, variant="temperature")


def from_map_file(path: str | Path, facts: ModelFacts) -> Candidate:
    """The map of a file as a row named after it."""
    from ropewalk.models.stretch import map_for_model

    found = map_for_model(path, facts)
    row = _mapped(Path(path).stem, found.plan, facts, found.nearest)
    return replace(row, variant="file", file=str(path))


def mapped(name: str, facts: ModelFacts, target: int) -> Candidate:
    """A position map over the unscaled model that keeps distances up to the target inside what training showed."""
    plan = map_for(name, facts.geometry, target)
    return _mapped(name, plan, facts, nearest_table(plan, facts.geometry, target))


def _mapped(
    name: str, plan: PositionMap | DualChunk, facts: ModelFacts, nearest: FrequencySchedule
) -> Candidate:
    @contextmanager
    def put(model: Any) -> Iterator[None]:
        from ropewalk.attention.maps import applied

        # The near zone is the original rotation, whatever the file stretches.
        with unmodified(facts).apply(model), applied(model, plan):
            yield

    kind = "zones" if plan.name == "zones" else "position-map"
    return Candidate(name, kind, put, variant="map", plan=plan, nearest=nearest)


def cached(below: Candidate, cache: str) -> Candidate:
    """A candidate read through a cache of another kind."""
    if not cache:
        raise UsageError(f"{below.name}{WITH} names no cache", hint="write yarn+q4 or yarn+sinks:4+2k")

    @contextmanager
    def put(model: Any) -> Iterator[None]:
        from ropewalk.attention.cache_kinds import parse_kind

        with below.apply(model), parse_kind(cache).applied(model):
            yield

    return Candidate(f"{below.name}{WITH}{cache}", "cache", put, variant="cache")
