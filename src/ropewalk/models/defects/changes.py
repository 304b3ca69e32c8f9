"""What differs between two configurations, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.models.structure.record import RECORD
from ropewalk.models.structure.values import shown

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One value of a configuration, before and after. `had` and `has` say whether it stands there at all."""

    where: str
    old: Any
    new: Any
    had: bool
    has: bool

    def __str__(self) -> str:
        before = shown(self.old) if self.had else "nothing"
        return f"{self.where}: {before} -> {shown(self.new) if self.has else 'removed'}"

    def to_json(self) -> dict[str, Any]:
        """For `extend --json`: a key that is missing on one side has no value there."""
        sides = {"old": (self.had, self.old), "new": (self.has, self.new)}
        return {"where": self.where} | {name: value for name, (there, value) in sides.items() if there}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every value that differs, in the order of the new configuration; our own note is left out."""
    return tuple(change for change in _changes("", old, new) if change.where != RECORD)


def _changes(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys([*new, *old]):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        path = f"{where}.{name}" if where else str(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping) and path != RECORD:
            yield from _changes(path, before, after)
        # 1, 1.0 and true are equal to Python and different things to other readers.
        elif type(before) is not type(after) or before != after:
            had, has = before is not _ABSENT, after is not _ABSENT
            yield Change(path, before if had else None, after if has else None, had, has)
