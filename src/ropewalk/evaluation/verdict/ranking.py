"""Which rows are best, and which cannot be told apart from the best. Arithmetic over figures; no model, no words.

A criterion puts every row beside the best one, pair by pair, with Holm's correction for having looked at them all: only
a row that is surely worse leaves the group. The next criterion looks at the group alone. What is left is one answer as
far as this run can tell, and the member that costs least inside the window is recommended.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluation.statistics.choice import ERROR, holm
from ropewalk.evaluation.statistics.intervals import Interval, mean_interval, paired_interval, paired_shares

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """What a row is ranked by: losses of segments and key tokens, credits of questions, in one order."""

    tail: FloatArray | None = None
    inside: FloatArray | None = None
    keys: FloatArray | None = None
    credits: FloatArray | None = None


@dataclass(frozen=True)
class Owners:
    """Whose each value is: the document of a segment and of a key token, the text of a question."""

    segments: Sequence[Hashable] = ()
    keys: Sequence[Hashable] = ()
    questions: Sequence[Hashable] = ()


@dataclass(frozen=True)
class Criterion:
    """One way to put rows beside each other; `sign` is -1 where lower is better."""

    name: str
    part: str
    sign: int
    owners: Sequence[Hashable]

    def values(self, row: Figures) -> FloatArray | None:
        """A row's values under this criterion."""
        found: FloatArray | None = getattr(row, self.part)
        return found

    def figure(self, row: Figures) -> float:
        """Higher is better; a row without values is last."""
        values = self.values(row)
        return -np.inf if values is None or not len(values) else self.sign * float(values.mean())

    def difference(self, row: Figures, other: Figures) -> Interval:
        """`row - other` in the measure's own sign."""
        one, two = self.values(row), self.values(other)
        assert one is not None
        assert two is not None
        return (paired_shares if self.part == "credits" else paired_interval)(one, two, self.owners)


def criteria_of(
    rank: str, rows: Mapping[str, Figures], owners: Owners, *, keys_told: bool
) -> list[Criterion]:
    """The criteria in their order. `use`: retrieval, then key tokens where they say something, loss where not."""
    known = {
        "retrieval": Criterion("retrieval", "credits", 1, owners.questions),
        "key-tokens": Criterion("key-tokens", "keys", -1, owners.keys),
        "loss": Criterion("loss", "tail", -1, owners.segments),
        "window": Criterion("window", "inside", -1, owners.segments),
    }
    # What a window is for comes first; a key-token set that is noise would rank rows by noise.
    wanted = ["retrieval", "key-tokens" if keys_told else "loss"] if rank == "use" else [rank]
    chosen = [known[name] for name in wanted]
    return [c for c in chosen if any(np.isfinite(c.figure(row)) for row in rows.values())]


def group_of(criterion: Criterion, rows: Mapping[str, Figures]) -> list[str]:
    """The rows that are not surely worse than the best one."""
    able = [name for name, row in rows.items() if np.isfinite(criterion.figure(row))]
    if not able:
        return list(rows)
    best = max(able, key=lambda name: criterion.figure(rows[name]))
    found = {name: criterion.difference(rows[name], rows[best]) for name in able if name != best}
    adjusted = holm({name: interval.p for name, interval in found.items()})
    return [name for name in able if name == best or adjusted[name] > ERROR]


@dataclass(frozen=True)
class Order:
    """Rows from best to worst, the group that shares the first place, and the one of it to take."""

    names: list[str]
    group: list[str]
    recommended: str | None
    criteria: list[str] = field(default_factory=list)


def order(criteria: Sequence[Criterion], rows: Mapping[str, Figures]) -> Order:
    """The group first, cheapest inside the window at its head; behind it those that left it last."""
    left: list[list[str]] = []
    group = dict(rows)
    for criterion in criteria:
        kept = group_of(criterion, group)
        out = [name for name in group if name not in kept]
        # Those who left are told apart by what they left on, and by the later criteria where that is equal.
        later = [criterion, *criteria[criteria.index(criterion) + 1 :]]
        behind = {name: tuple(-c.figure(rows[name]) for c in later) for name in out}
        left.append(sorted(out, key=behind.__getitem__))
        group = {name: rows[name] for name in kept}
    inside = Criterion("window", "inside", -1, ())
    first = sorted(group, key=lambda name: -inside.figure(rows[name]))
    names = first + [name for part in reversed(left) for name in part]
    return Order(names, first, first[0] if first else None, [criterion.name for criterion in criteria])


def against(
    control: Figures, rows: Mapping[str, Figures], criteria: Sequence[Criterion]
) -> dict[str, dict[str, tuple[Interval, float]]]:
    """Every row against a control under every criterion that both have: {criterion: {row: (interval, p_family)}}.

    All of them are one family: the chance that any of these is called a win, or a loss, by luck is at most 5 %.
    """
    found: dict[str, dict[str, Interval]] = {}
    for criterion in criteria:
        if criterion.values(control) is not None:
            found[criterion.name] = {
                name: criterion.difference(row, control)
                for name, row in rows.items()
                if criterion.values(row) is not None
            }
    family = holm({f"{c}\n{name}": i.p for c, part in found.items() for name, i in part.items()})
    return {
        c: {name: (interval, family[f"{c}\n{name}"]) for name, interval in part.items()}
        for c, part in found.items()
    }


def mean_of(values: FloatArray | None) -> float | None:
    """The mean, or None where there is nothing."""
    return None if values is None or not len(values) else mean_interval(values.tolist()).mean
