"""The rows of a comparison: what its names and files stand for, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.attended import WITH, cached, from_map_file, mapped, tempered
from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.evaluation.candidates.choose import choose, merged
from ropewalk.evaluation.candidates.controls import REFERENCES, UNMODIFIED, as_is, controls, unmodified
from ropewalk.evaluation.request import CompareRequest
from ropewalk.evaluation.result import LeftOut
from ropewalk.map_files import is_map
from ropewalk.map_table import MAPS
from ropewalk.models.facts import ModelFacts
from ropewalk.models.stretch import kept_parameters, stretch_for


@dataclass(frozen=True)
class Queue:
    """What is measured, in this order, and what is left out with the reason."""

    controls: list[Candidate]
    rows: list[Candidate]
    left_out: list[LeftOut]
    facts: ModelFacts
    target: int

    @classmethod
    def of(cls, request: CompareRequest, facts: ModelFacts, target: int, given: Sequence[Candidate]) -> Queue:
        """Controls first: everything else is held against them."""
        # `--methods none` asks for the named files alone; without any there would be nothing to measure.
        alone = bool(given or request.schedules) and request.methods == ["none"]
        found, left_out = ([], []) if alone else named(request.methods, facts, target)
        rows = merged([*as_is(facts), *found, *from_files(request.schedules, facts, target), *given])
        names = [row.name for row in [*controls(facts), *rows]]
        names += REFERENCES if request.reference is not None else ()
        # Cells are kept under the name as a file has it: `a.b` beside `a-b` would read the other's figures as its own.
        slugs = [Candidate(name).slug for name in names]
        twice = sorted({name for name, slug in zip(names, slugs, strict=True) if slugs.count(slug) > 1})
        if twice:
            called = "called" if len(twice) == 1 else "kept under one name:"
            raise UsageError(
                f"two rows are {called} {', '.join(twice)}", hint="rename the file or the candidate"
            )
        return cls(controls(facts), rows, left_out, facts, target)

    @property
    def all(self) -> list[Candidate]:
        """Everything, controls first."""
        return [*self.controls, *self.rows]


def named(names: Sequence[str], facts: ModelFacts, target: int) -> tuple[list[Candidate], list[LeftOut]]:
    """Rows by name: methods (with their variants), position maps (`zones`, `self-extend`, ...), and either of them
    at an attention temperature (`yarn+log-n`) or read through a cache (`yarn+q4`, `zones+log-n+sinks:4+2k`)."""
    plain = [name for name in names if WITH not in name and name not in MAPS]
    factor = target / facts.original_length
    kept = kept_parameters(facts)
    # Maps and rows through a cache do without; no name at all is nobody's wish.
    found, left_out = choose(plain, facts.geometry, factor, kept) if plain or not names else ([], [])
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


def from_files(paths: Sequence[str | Path], facts: ModelFacts, target: int) -> list[Candidate]:
    """Finished schedules (of `tune`, of an earlier comparison, ladders) as rows named after their files, and maps."""
    found = []
    for path in paths:
        if is_map(path):
            found.append(from_map_file(path, facts))
            continue
        made = stretch_for(facts, schedule=path, target=target).schedule
        found.append(scheduled(Path(path).stem, made, variant="file", file=str(path)))
    return found
