"""Candidates that work at attention time: position maps, zones, temperatures, and caches that keep less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.controls import unmodified
from ropewalk.map_files import nearest_table
from ropewalk.models.facts import ModelFacts
from ropewalk.position_maps import AnyMap, map_for
from ropewalk.schedule import FrequencySchedule

# Between a row and what it is read through, as in `yarn+q4`.
WITH = "+"


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


def _mapped(name: str, plan: AnyMap, facts: ModelFacts, nearest: FrequencySchedule) -> Candidate:
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
