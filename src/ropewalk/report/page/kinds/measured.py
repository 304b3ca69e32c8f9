"""Tables and figures that every measured run shares: loss by length, retrieval, and the figures of its kind."""

from __future__ import annotations

from typing import Any

from ropewalk.report.figure import Figure, NoDataError
from ropewalk.report.figures import KINDS, kinds_for
from ropewalk.report.page.content import Cell, Column, Missing, Table, length_cell, number_cell, value_cell
from ropewalk.report.reading import by_length, grids, loss_curves, mappings, number
from ropewalk.report.views import RunView

_OF_SCHEDULES = ("wavelength", "profile", "angles", "spread", "decay", "resolution")
# Sorting the angles of every position takes a second a method here, and in proportion beyond.
_LONGEST_SPREAD = 131072


def figures(view: RunView) -> tuple[Figure | Missing, ...]:
    """Every figure of the run's kind; one without data becomes a note that says what to run."""
    found: list[Figure | Missing] = []
    for kind in kinds_for(view.kind):
        try:
            found.append(kind.build((view,)))
        except NoDataError as error:
            found.append(Missing(kind.name, kind.shows, error.message, error.hint or ""))
    model = view.model_view()
    if model is not None:
        files = tuple(f"{view.id}/parts (schedule of {name})" for name in model.names)
        names = [name for name in _OF_SCHEDULES if name != "spread" or model.target_length <= _LONGEST_SPREAD]
        found += [KINDS[name].build(model).with_sources(*files) for name in names]
    return tuple(found)


def loss_table(view: RunView) -> Table | None:
    """Mean loss: everything measured down, lengths across, so that many methods do not make a wide table."""
    note = "Mean next-token loss at each length, ± half its 95 % interval where there is one."
    return _loss_table(view, "Loss by length", note, "loss", "ci")


def tail_table(view: RunView) -> Table | None:
    """The same over the last quarter before each length, where a model that breaks breaks first."""
    note = "Mean loss of the last quarter of tokens before each length, ± half its 95 % interval."
    return _loss_table(view, "Loss at the end of each length", note, "tail_loss", "tail_ci")


def _loss_table(view: RunView, title: str, note: str, value: str, ci: str) -> Table | None:
    curves = loss_curves(view, value, ci)
    if not curves:
        return None
    lengths = sorted({row.at for curve in curves for row in curve.rows})
    rows = []
    for curve in curves:
        cells = [Cell(curve.name, curve.name, tone="muted" if curve.role == "control" else "")]
        for length in lengths:
            row = next((row for row in curve.rows if row.at == length), None)
            if row is None:
                cells.append(Cell("–", "", tone="muted"))
                continue
            spread = "" if row.low is None or row.high is None else f" ±{(row.high - row.low) / 2:.3f}"
            cells.append(
                Cell(f"{row.value:.3f}{spread}", row.value, f"{view.id}/result.json{row.path}/{value}")
            )
        rows.append(tuple(cells))
    columns = (
        Column("model or method", numeric=False),
        *(Column(length_cell(length).text, "nats") for length in lengths),
    )
    return Table(title, columns, tuple(rows), note, _sources(view, [curve.path for curve in curves]))


def retrieval_table(view: RunView) -> Table | None:
    """One row for each task and method, one column for each length; depths are averaged."""
    found = grids(view)
    if not found:
        return None
    lengths = sorted({cell.length for grid in found for cell in grid.cells})
    rows = []
    for grid in found:
        means = {length: accuracy for length, accuracy, _ in by_length(grid)}
        chances = [chance for _, _, chance in by_length(grid) if chance is not None]
        cells = [Cell(grid.name, grid.name), Cell(grid.task, grid.task)]
        for length in lengths:
            cells.append(number_cell(means.get(length), f"{view.id}/result.json{grid.path}", digits=2))
        cells.append(number_cell(sum(chances) / len(chances) if chances else None, digits=2))
        rows.append(tuple(cells))
    columns = (
        Column("model or method", numeric=False),
        Column("task", numeric=False),
        *(Column(length_cell(length).text, "tokens") for length in lengths),
        Column("chance"),
    )
    note = "Share of answers found, averaged over depths; 1 is all."
    return Table(
        "Retrieval by length", columns, tuple(rows), note, _sources(view, [grid.path for grid in found])
    )


def cells_table(view: RunView) -> Table | None:
    """Every retrieval cell with its depth, where more than one depth was asked."""
    found = grids(view)
    if not any(len({cell.depth for cell in grid.cells}) > 1 for grid in found):
        return None
    rows = [
        (
            Cell(grid.name, grid.name),
            Cell(grid.task, grid.task),
            length_cell(cell.length),
            number_cell(cell.depth, digits=2),
            number_cell(cell.accuracy, f"{view.id}/result.json{cell.path}/accuracy", digits=2),
            number_cell(cell.chance, f"{view.id}/result.json{cell.chance_path}", digits=2),
        )
        for grid in found
        for cell in grid.cells
    ]
    columns = (
        Column("model or method", numeric=False),
        Column("task", numeric=False),
        Column("length", "tokens"),
        Column("depth"),
        Column("accuracy"),
        Column("chance"),
    )
    sources = _sources(view, [grid.path for grid in found])
    return Table("Retrieval, every cell", columns, tuple(rows), sources=sources, folded=len(rows) > 12)


def rows_table(title: str, content: Any, path: str, *, note: str = "") -> Table | None:
    """Any list of mappings as a table of its plain values."""
    rows = mappings(content)
    keys = list(
        dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list))
    )
    if not rows or not keys:
        return None
    drawn = tuple(
        tuple(
            length_cell(row.get(key), f"{path}/{index}/{key}")
            if key == "length"
            else value_cell(row.get(key), f"{path}/{index}/{key}")
            for key in keys
        )
        for index, row in enumerate(rows)
    )
    columns = tuple(
        Column(key.replace("_", " "), numeric=any(number(row.get(key)) is not None for row in rows))
        for key in keys
    )
    return Table(title, columns, drawn, note, (path,), folded=len(rows) > 16)


def _sources(view: RunView, paths: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{view.id}/result.json{path}" for path in paths))
