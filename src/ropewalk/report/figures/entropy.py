"""Attention entropy by layer and length: does attention go uniform, or collapse to a peak?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.report.figure import (
    Axis,
    Figure,
    Line,
    NoDataError,
    Panel,
    series_color,
    series_dash,
    significant,
)
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import mappings, number, parts
from ropewalk.report.views import RunView
from ropewalk.units import MAX_LENGTH, format_length


@figure_kind("entropy", shows="attention entropy by layer and length", source="run", run_kinds=("eval",))
def figure(views: Sequence[RunView]) -> Figure:
    """Mean entropy in nats over the layers, one line a length."""
    drawn: list[Line] = []
    sources = []
    for view in views:
        for name, _, document, path in parts(view):
            rows, below = attention_rows(document.get("health"))
            table = _table(rows)
            for length, points in sorted(table.items()):
                label = f"{name} at {format_length(length)}" + (f" ({view.id})" if len(views) > 1 else "")
                index = len(drawn)
                x = [layer for layer, _ in points]
                y = [significant(value, 4) for _, value in points]
                drawn.append(Line(label, x, y, series_color(index), series_dash(index), marker=True))
            if table:
                sources.append(f"{view.id}/result.json{path}/health{below}")
    if not drawn:
        raise NoDataError(
            "no attention entropy in this run",
            hint="`ropewalk eval MODEL --lengths 4k..32k --health` measures it",
        )
    return Figure(
        "entropy",
        "Attention entropy",
        "Mean entropy of the attention weights in each layer. Rising towards the logarithm of the length, attention "
        "goes uniform; falling towards 0, it collapses to a peak.",
        (Panel(tuple(drawn), Axis("layer", ticks=_ticks(drawn)), Axis("attention entropy", "nats")),),
        alt="; ".join(
            f"{line.name}: {line.y[0]} in the first layer, {line.y[-1]} in the last" for line in drawn
        ),
        sources=tuple(sources),
    )


def _ticks(drawn: Sequence[Line]) -> tuple[tuple[float, str], ...]:
    """Whole layers, at most twelve."""
    layers = sorted({int(layer) for line in drawn for layer in line.x if layer is not None})
    return tuple((float(layer), str(layer)) for layer in layers[:: -(-len(layers) // 12)])


def attention_rows(health: object) -> tuple[list[Mapping[str, Any]], str]:
    """The rows that carry an entropy, and their path below `health`: the list itself or one list in a mapping."""
    parts = (
        {f"/{key}": value for key, value in health.items()} if isinstance(health, Mapping) else {"": health}
    )
    for path, content in parts.items():
        rows = [row for row in mappings(content) if number(row.get("entropy")) is not None]
        if rows:
            return rows, path
    return [], ""


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[tuple[float, float]]]:
    """Length to (layer, entropy), heads averaged by whoever measured."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        length, layer, entropy = (
            number(row.get("length")),
            number(row.get("layer")),
            number(row.get("entropy")),
        )
        if length is not None and layer is not None and entropy is not None and 0 < length <= MAX_LENGTH:
            found.setdefault(int(length), []).append((layer, entropy))
    return {length: sorted(rows) for length, rows in found.items()}
