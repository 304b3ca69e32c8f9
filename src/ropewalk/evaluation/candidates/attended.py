"""Candidates that work at attention time: position maps, zones, and caches that keep less than everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.choose import LeftOut, choose, merged
from ropewalk.evaluation.candidates.controls import unmodified
from ropewalk.models.facts import ModelFacts
from ropewalk.position_maps import MAPS, map_for

WITH = "+"


def named(names: Sequence[str], facts: ModelFacts, target: int) -> tuple[list[Candidate], list[LeftOut]]:
    """Rows by name: methods (with their variants), position maps (`zones`, `self-extend`, ...), and either of them
    read through a cache (`yarn+q4`, `zones+sinks:4+2k`)."""
    from ropewalk.models.stretch import kept_parameters

    plain = [name for name in names if WITH not in name and name not in MAPS]
    factor = target / facts.original_length
    kept = kept_parameters(facts)
    found, left_out = choose(plain, facts.geometry, factor, kept) if plain else ([], [])
    for name in names:
        if WITH in name:
            below, _, cache = name.partition(WITH)
            made = (
                choose([below], facts.geometry, factor, kept)[0]
                if below not in MAPS
                else [mapped(below, facts, target)]
            )
            found.append(cached(made[0], cache))
        elif name in MAPS:
            found.append(mapped(name, facts, target))
    return merged(found), left_out


def mapped(name: str, facts: ModelFacts, target: int) -> Candidate:
    """A position map over the unscaled model that keeps distances up to the target inside what training showed."""
    plan = map_for(name, facts.geometry, target)

    @contextmanager
    def put(model: Any) -> Iterator[None]:
        from ropewalk.attention.maps import applied

        # The near zone is the original rotation, whatever the file stretches.
        with unmodified(facts).apply(model), applied(model, plan):
            yield

    return Candidate(name, "zones" if name == "zones" else "position-map", put, variant="map")


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
