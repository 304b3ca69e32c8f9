"""Retrieval accuracy as a heat map: depth against length, one panel for each task or method."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.report.figure import Axis, Figure, Heat, NoDataError, Panel, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import Cell, Grid, grids
from ropewalk.report.views import RunView
from ropewalk.units import format_length

MOST_PANELS = 12
# From so many panels on they are drawn small, side by side on the one scale.
SMALL = 5


@figure_kind(
    "retrieval",
    shows="retrieval accuracy by depth and length",
    source="run",
    run_kinds=("eval", "compare", "tune"),
)
def figure(views: Sequence[RunView]) -> Figure:
    """Share of answers found, 0 to 1; one scale for every panel."""
    found = [grid for view in views for grid in grids(view)]
    if not found:
        raise NoDataError(
            "no retrieval in this run",
            hint="`ropewalk eval MODEL --lengths 4k..32k --tasks passkey,needle` measures it",
        )
    shown = _chosen(found)
    several = len({grid.run.id for grid in shown}) > 1
    chances = [cell.chance for grid in shown for cell in grid.cells if cell.chance is not None]
    chance = f" Chance is about {sum(chances) / len(chances):.2f}." if chances else ""
    left = f" {len(found) - len(shown)} more are in the table." if len(found) > len(shown) else ""
    columns = min(4 if len(shown) >= SMALL else 2, len(shown))
    rows = max(len(_depths(grid)) for grid in shown)
    return Figure(
        "retrieval",
        "Retrieval by depth and length",
        "Share of answers found when the fact stands at a depth of the context (0 is its beginning)."
        + chance
        + left,
        tuple(_panel(grid, several) for grid in shown),
        columns=columns,
        height=(max(210, 110 + 24 * rows) if columns > 2 else max(300, 130 + 34 * rows))
        * -(-len(shown) // columns),
        alt="; ".join(f"{_name(grid, several)} mean {_mean(grid.cells):.2f}" for grid in shown),
        sources=tuple(dict.fromkeys(f"{grid.run.id}/result.json{grid.path}" for grid in shown)),
    )


def _chosen(found: Sequence[Grid]) -> list[Grid]:
    """The best first, then the controls, then the others from the best down, as many as there is room for."""
    rest = sorted((grid for grid in found if grid.role != "control"), key=lambda grid: -_mean(grid.cells))
    controls = [grid for grid in found if grid.role == "control"]
    if len({grid.task for grid in found}) > 1 or not rest or not controls:
        # Tasks of one model, or runs side by side, stay in the order in which they were asked.
        return list(found)[:MOST_PANELS]
    return [rest[0], *controls, *rest[1:]][:MOST_PANELS]


def _panel(grid: Grid, several: bool) -> Panel:
    lengths = sorted({cell.length for cell in grid.cells})
    values = tuple(
        tuple(
            _value([cell for cell in grid.cells if cell.length == length and cell.depth == depth])
            for length in lengths
        )
        for depth in _depths(grid)
    )
    rows = tuple("any" if depth is None else f"{depth:g}" for depth in _depths(grid))
    # From 0 to 1 whatever was measured: the panels of one page are compared by their colours.
    heat = Heat(tuple(format_length(length) for length in lengths), rows, values, 0.0, 1.0, "accuracy")
    return Panel(
        (heat,), Axis("length", "tokens"), Axis("depth", "share of the context"), _name(grid, several)
    )


def _depths(grid: Grid) -> list[float | None]:
    known = sorted({cell.depth for cell in grid.cells if cell.depth is not None})
    return [*known, *([None] if any(cell.depth is None for cell in grid.cells) else [])]


def _value(cells: Sequence[Cell]) -> float | None:
    return significant(_mean(cells), 4) if cells else None


def _mean(cells: Sequence[Cell]) -> float:
    return sum(cell.accuracy for cell in cells) / len(cells)


def _name(grid: Grid, several: bool) -> str:
    name = grid.name if grid.task == "retrieval" else f"{grid.name}: {grid.task}"
    return name + (f" ({grid.run.id})" if several else "")
