"""`eval`: how far the model reaches, what it loses, what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.report.page.content import Content, Table, Tile, Verdict, content_of, sentence, shown_number
from ropewalk.report.page.kinds.measured import (
    cells_table,
    figures,
    loss_table,
    retrieval_table,
    rows_table,
    tail_table,
)
from ropewalk.report.reading import by_length, grids, loss_curves, number
from ropewalk.report.views import RunView
from ropewalk.units import format_length


@content_of("eval")
def content(view: RunView) -> Content:
    """Verdict, tiles, tables and figures of an evaluation."""
    tables = [loss_table(view), tail_table(view), retrieval_table(view), _evidence(view), _long_tokens(view)]
    tables += [*_health(view), cells_table(view)]
    return Content.of(_verdict(view), _tiles(view), tables, figures(view))


def effective_length(view: RunView) -> tuple[int | None, str]:
    """(tokens, the reason in words)."""
    length = number(view.result.get("effective_length"))
    why = _effective(view).get("why")
    return (None if length is None else int(length)), str(why or "")


def _effective(view: RunView) -> Mapping[str, Any]:
    found: Any = view.result.get("effective")
    return found if isinstance(found, Mapping) else {}


def _evidence(view: RunView) -> Table | None:
    note = "A length holds when retrieval keeps its share of the short score and the tail is no worse than cropping."
    path = f"{view.id}/result.json/effective/evidence"
    return rows_table("Evidence for the effective length", _effective(view).get("evidence"), path, note=note)


def _long_tokens(view: RunView) -> Table | None:
    path = f"{view.id}/result.json/long_tokens"
    note = "Tokens that repeat something that stands further back than the original window."
    return rows_table("Tokens that need far context", view.result.get("long_tokens"), path, note=note)


def _health(view: RunView) -> list[Table | None]:
    found: Any = view.result.get("health")
    parts = found if isinstance(found, Mapping) else {"attention": found}
    path = f"{view.id}/result.json/health" + ("" if isinstance(found, list) else "/")
    return [
        rows_table(
            f"Health: {str(name).replace('_', ' ')}",
            content,
            path if isinstance(found, list) else f"{path}{name}",
        )
        for name, content in parts.items()
    ]


def _verdict(view: RunView) -> Verdict:
    length, why = effective_length(view)
    said = view.result.get("verdict")
    points = [sentence(line) for line in said] if isinstance(said, list) else _against_controls(view)
    remarks = view.result.get("remarks")
    points += [sentence(line) for line in remarks] if isinstance(remarks, list) else []
    points = [
        point[:1].upper() + point[1:] for point in points if not point.lower().startswith("effective length")
    ]
    reason = f": {why}" if why else ""
    if length is None:
        return Verdict(
            sentence(f"No effective length{reason or ' was found or asked for'}"), tuple(points), "muted"
        )
    return Verdict(sentence(f"Usable up to {format_length(length)} tokens{reason}"), tuple(points))


def _against_controls(view: RunView) -> list[str]:
    """One sentence for each control that was measured at the longest length."""
    curves = loss_curves(view)
    own = next((curve for curve in curves if curve.role == "measured"), None)
    if own is None:
        return []
    points = []
    for curve in curves:
        other = next((row.value for row in curve.rows if row.at == own.rows[-1].at), None)
        if curve.role != "control" or other is None:
            continue
        difference = own.rows[-1].value - other
        word = "below" if difference < 0 else "above"
        where = format_length(int(own.rows[-1].at))
        points.append(
            f"At {where} tokens its loss is {abs(difference):.3f} nats {word} the {curve.name} control."
        )
    return points


def _tiles(view: RunView) -> list[Tile]:
    tiles = []
    length, _ = effective_length(view)
    if length is not None:
        tiles.append(
            Tile(
                "effective length", format_length(length), "tokens", f"{view.id}/result.json/effective_length"
            )
        )
    own = next((curve for curve in loss_curves(view) if curve.role == "measured"), None)
    if own is not None:
        last = own.rows[-1]
        label = f"loss at {format_length(int(last.at))}"
        tiles.append(
            Tile(label, shown_number(last.value), "nats per token", f"{view.id}/result.json{last.path}/loss")
        )
    for grid in grids(view)[:3]:
        reach, accuracy, chance = by_length(grid)[-1]
        note = "share found" if chance is None else f"share found, chance {chance:.2f}"
        tiles.append(
            Tile(
                f"{grid.task} at {format_length(reach)}",
                f"{accuracy:.2f}",
                note,
                f"{view.id}/result.json{grid.path}",
            )
        )
    return tiles
