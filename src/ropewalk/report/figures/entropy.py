"""Attention entropy by layer and length: does attention go uniform, or collapse to a peak?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from ropewalk.report.reading import mappings, number, parts
from ropewalk.report.views import RunView
from ropewalk.units import format_length


def figure(views: Sequence[RunView]) -> Figure:
    """Mean entropy in nats over the layers, one line a length."""
    drawn: list[Line] = []
    sources = []
    for view in views:
        for name, _, document, path in parts(view):
            table = _table(document.get("health"))
            for length, rows in sorted(table.items()):
                label = f"{name} at {format_length(length)}" + (f" ({view.id})" if len(views) > 1 else "")
                index = len(drawn)
                x = [layer for layer, _ in rows]
                y = [significant(value, 4) for _, value in rows]
                drawn.append(Line(label, x, y, series_color(index), series_dash(index), marker=True))
            if table:
                sources.append(f"{view.id}/result.json{path}/health")
    if not drawn:
        raise NoDataError(
            "no attention entropy in this run",
            hint="`ropewalk eval MODEL --lengths 4k..32k --tasks health` measures it",
        )
    return Figure(
        "entropy",
        "Attention entropy",
        "Mean entropy of the attention weights in each layer. Rising towards the logarithm of the length, attention "
        "goes uniform; falling towards 0, it collapses to a peak.",
        (Panel(tuple(drawn), Axis("layer"), Axis("attention entropy", "nats")),),
        alt="; ".join(
            f"{line.name}: {line.y[0]} in the first layer, {line.y[-1]} in the last" for line in drawn
        ),
        sources=tuple(sources),
    )


def _table(health: object) -> dict[int, list[tuple[float, float]]]:
    """Length to (layer, entropy), heads averaged by whoever measured."""
    content = health.get("layers") if isinstance(health, Mapping) else health
    found: dict[int, list[tuple[float, float]]] = {}
    for row in mappings(content):
        length, layer, entropy = (
            number(row.get("length")),
            number(row.get("layer")),
            number(row.get("entropy")),
        )
        if length is not None and layer is not None and entropy is not None:
            found.setdefault(int(length), []).append((layer, entropy))
    return {length: sorted(rows) for length, rows in found.items()}
