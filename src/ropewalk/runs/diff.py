"""What differs between two runs: what was asked, what it ran on, what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ropewalk.runs.store import RESULT, StoredRun

# Differ between any two runs and say nothing.
_IDLE = ("/seconds", "/run")


@dataclass(frozen=True)
class Difference:
    """One leaf that is not the same; `change` is second minus first where both are numbers."""

    part: str
    path: str
    first: Any
    second: Any
    change: float | None

    def to_json(self) -> dict[str, Any]:
        """For `runs diff --json`."""
        return asdict(self)


def diff(first: StoredRun, second: StoredRun) -> list[Difference]:
    """Every differing leaf of request, seed, versions, hardware and result, in that order."""
    found: list[Difference] = []
    for part in ("kind", "status", "request", "seed", "versions", "hardware"):
        found += _compared(part, first.manifest.get(part), second.manifest.get(part))
    one = first.read_json() if first.has(RESULT) else None
    two = second.read_json() if second.has(RESULT) else None
    return found + _compared("result", one, two)


def _compared(part: str, first: Any, second: Any) -> list[Difference]:
    one, two = dict(leaves(first)), dict(leaves(second))
    found = []
    for path in dict.fromkeys([*one, *two]):
        left, right = one.get(path), two.get(path)
        # Equal as JSON: a missing value and a null say the same.
        if left == right or path.endswith(_IDLE):
            continue
        found.append(Difference(part, path, left, right, _change(left, right)))
    return found


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(JSON path, value) of every leaf. Rows of a list that carry a name or a length are told apart by it, so that
    a row added in the middle does not shift the rest."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(document, list) and document and all(isinstance(item, Mapping) for item in document):
        for index, item in enumerate(document):
            yield from leaves(item, f"{path}/{_label(item, index)}")
    else:
        yield path, document


def _label(row: Mapping[str, Any], index: int) -> str:
    parts = [
        str(row[key])
        for key in ("name", "task", "length", "position", "depth", "layer")
        if row.get(key) is not None
    ]
    return ",".join(parts) if parts else str(index)


def _change(first: Any, second: Any) -> float | None:
    # A switch has no size, although Python counts it as a number.
    if isinstance(first, bool) or isinstance(second, bool):
        return None
    if isinstance(first, int | float) and isinstance(second, int | float):
        return second - first
    return None
