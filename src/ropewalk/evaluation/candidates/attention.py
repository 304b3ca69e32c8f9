"""Candidates that work at attention time: zones, position maps, kinds of caches. No table of frequencies is theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.controls import is_scaled
from ropewalk.models.facts import ModelFacts
from ropewalk.position_maps import MAPS, map_for

if TYPE_CHECKING:
    from ropewalk.attention.cache_kinds import CacheKind

EVERY_MAP = "maps"


def split_names(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of methods, and names of position maps; `maps` stands for every one of these."""
    maps = [name for name in wanted if name in MAPS]
    if EVERY_MAP in wanted:
        maps = list(MAPS)
    return [name for name in wanted if name not in MAPS and name != EVERY_MAP], maps


def mapped(name: str, facts: ModelFacts, target: int, **parameters: Any) -> Candidate:
    """A position map over the unscaled model, by its defaults for the target unless `parameters` say otherwise."""
    plan = map_for(name, facts.geometry, target, **parameters)

    @contextlib.contextmanager
    def put(model: Any) -> Iterator[None]:
        from ropewalk.attention.maps import applied
        from ropewalk.methods import schedule
        from ropewalk.models.apply import apply

        with contextlib.ExitStack() as stack:
            if is_scaled(facts):
                stack.enter_context(apply(model, schedule("none", facts.geometry, factor=1.0)))
            stack.enter_context(applied(model, plan))
            yield

    return Candidate(name, MAPS[name].kind, put)


def cached(kind: CacheKind) -> Candidate:
    """The model as it is, read through one kind of cache."""
    return Candidate(kind.name, "cache", kind.applied)
