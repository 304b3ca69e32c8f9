"""The documents of runs as curves, grids and points: the one place that knows the keys of `result.json`.

Keys that are missing or of the wrong shape give nothing here, never an exception: the figure or table that would need
them then says what to run. Every item carries the JSON path that it was read from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from ropewalk.report.views import RunView
from ropewalk.units import MAX_LENGTH

_MOST_ROWS = 300

Role = Literal["measured", "control"]


@dataclass(frozen=True)
class Row:
    """One measured value at a length or position, with its interval where there is one."""

    at: float
    value: float
    low: float | None
    high: float | None
    path: str


@dataclass(frozen=True)
class Curve:
    """A named series of one run."""

    run: RunView
    name: str
    role: Role
    rows: tuple[Row, ...]
    path: str


@dataclass(frozen=True)
class Cell:
    """One cell of a retrieval grid."""

    length: int
    depth: float | None
    accuracy: float
    chance: float | None
    count: int | None
    path: str
    chance_path: str


@dataclass(frozen=True)
class Grid:
    """The cells of one task under one method of one run."""

    run: RunView
    name: str
    role: Role
    task: str
    cells: tuple[Cell, ...]
    path: str


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    # JSON's true is Python's 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; nothing for anything else."""
    if not isinstance(value, list | tuple):
        return []
    return [item for item in value if isinstance(item, Mapping)]


def parts(view: RunView) -> Iterator[tuple[str, Role, Mapping[str, Any], str]]:
    """(name, role, document, path) of everything measured in a run: the model or each method, then the controls."""
    methods = mappings(view.result.get("methods"))
    if methods:
        for index, method in enumerate(methods):
            yield str(method.get("name") or f"method {index}"), "measured", method, f"/methods/{index}"
    else:
        yield view.model, "measured", view.result, ""
    controls = view.result.get("controls")
    if isinstance(controls, Mapping):
        for name, content in controls.items():
            # `eval` keeps the rows of a control alone, `compare` a whole row of the table.
            document = content if isinstance(content, Mapping) else {"loss": content}
            yield str(name), "control", document, f"/controls/{name}"


def loss_curves(view: RunView, value: str = "loss", ci: str = "ci") -> list[Curve]:
    """Loss by length of everything measured: over the whole length, or with `tail_loss`, `tail_ci` over its end."""
    return _curves(view, "loss", value, ci)


def position_curves(view: RunView) -> list[Curve]:
    """Loss by position of everything measured."""
    return _curves(view, "loss_by_position", "loss", "ci")


def _curves(view: RunView, key: str, value: str, ci: str) -> list[Curve]:
    found = []
    for name, role, document, path in parts(view):
        content = document.get(key)
        inner = (
            "" if role == "control" and not isinstance(view.result["controls"][name], Mapping) else f"/{key}"
        )
        rows = [
            row
            for index, item in enumerate(content if isinstance(content, list) else [])
            if isinstance(item, Mapping)
            if (row := _row(item, value, ci, f"{path}{inner}/{index}")) is not None
        ]
        if rows:
            found.append(
                Curve(view, name, role, tuple(sorted(rows, key=lambda row: row.at)), f"{path}{inner}")
            )
    return found


def _row(item: Mapping[str, Any], key: str, ci: str, path: str) -> Row | None:
    """A row at its length or position; a bin of positions stands at its middle."""
    start, end = number(item.get("start")), number(item.get("end"))
    middle = None if start is None or end is None else (start + end) / 2
    places = (number(item.get("length")), number(item.get("position")), middle)
    # A logarithmic axis has no place for 0, and a damaged result may claim any length at all.
    at = next((place for place in places if place is not None and 0 < place <= MAX_LENGTH), None)
    value = number(item.get(key))
    if at is None or value is None:
        return None
    low, high = interval(item, ci)
    return Row(at, value, low, high, path)


def interval(item: Mapping[str, Any], key: str = "ci") -> tuple[float | None, float | None]:
    """A confidence interval, written as [low, high], {low, high} or as fields low and high."""
    found = item.get(key)
    if isinstance(found, Mapping):
        return number(found.get("low")), number(found.get("high"))
    if isinstance(found, list | tuple) and len(found) == 2:
        return number(found[0]), number(found[1])
    return number(item.get("low")), number(item.get("high"))


def grids(view: RunView) -> list[Grid]:
    """Every retrieval task under everything measured."""
    found = []
    for name, role, document, path in parts(view):
        rows = mappings(document.get("retrieval"))
        for task in dict.fromkeys(str(row.get("task") or "retrieval") for row in rows):
            cells = [
                cell
                for index, item in enumerate(rows)
                if str(item.get("task") or "retrieval") == task
                if (cell := _cell(item, f"{path}/retrieval/{index}", number(view.result.get("chance"))))
                is not None
            ]
            if cells:
                found.append(Grid(view, name, role, task, tuple(cells), f"{path}/retrieval"))
    return found


def _cell(item: Mapping[str, Any], path: str, chance: float | None) -> Cell | None:
    length, accuracy = number(item.get("length")), number(item.get("accuracy"))
    if length is None or accuracy is None or not 0 < length <= MAX_LENGTH:
        return None
    count = number(item.get("samples"))
    shared = item.get("chance") is None
    return Cell(
        int(length),
        number(item.get("depth")),
        accuracy,
        chance if shared else number(item["chance"]),
        None if count is None else int(count),
        path,
        "/chance" if shared else f"{path}/chance",
    )


def by_length(grid: Grid) -> list[tuple[int, float, float | None]]:
    """(length, mean accuracy over depths, chance), shortest first."""
    lengths = sorted({cell.length for cell in grid.cells})
    table = []
    for length in lengths:
        cells = [cell for cell in grid.cells if cell.length == length]
        chances = [cell.chance for cell in cells if cell.chance is not None]
        chance = sum(chances) / len(chances) if chances else None
        table.append((length, sum(cell.accuracy for cell in cells) / len(cells), chance))
    return table


def thinned(rows: Sequence[Row]) -> list[Row]:
    """At most 300 rows: neighbours are averaged, so that a long curve keeps its shape and a page its size."""
    if len(rows) <= _MOST_ROWS:
        return list(rows)
    cuts = [number * len(rows) // _MOST_ROWS for number in range(_MOST_ROWS + 1)]
    return [_averaged(rows[low:high]) for low, high in pairwise(cuts)]


def _averaged(part: Sequence[Row]) -> Row:
    lows = [row.low for row in part if row.low is not None]
    highs = [row.high for row in part if row.high is not None]
    # A mean over some of the ends would be an interval of nothing that was measured.
    whole = len(lows) == len(highs) == len(part)
    return Row(
        sum(row.at for row in part) / len(part),
        sum(row.value for row in part) / len(part),
        sum(lows) / len(lows) if whole else None,
        sum(highs) / len(highs) if whole else None,
        part[0].path,
    )
