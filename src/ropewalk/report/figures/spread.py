"""The distribution of embeddings: how unevenly positions fall on each pair's circle."""

from __future__ import annotations

from ropewalk.analysis import star_discrepancy
from ropewalk.report.figure import Axis, Figure, Line, Panel, series_color, series_dash, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.units import format_length


@figure_kind("spread", shows="how evenly positions fall on each pair's circle", source="model")
def figure(view: ModelView) -> Figure:
    """Star discrepancy D* per pair: near 1/length for an even spread, near 1 for a pair that hardly moves."""
    geometry, target = view.geometry, view.target_length
    index = [float(pair) for pair in range(geometry.half_dim)]
    trained = star_discrepancy(geometry.inv_freq, geometry.original_length)
    lines = [Line("in training", index, [significant(value) for value in trained], "ink", width=2.5)]
    notes = []
    for number, (label, made) in enumerate(zip(view.labels(), view.schedules, strict=True)):
        found = star_discrepancy(made.inv_freq, target)
        values = [significant(value) for value in found]
        lines.append(Line(label, index, values, series_color(number), series_dash(number)))
        notes.append(f"{label} mean {found.mean():.3f}")
    return Figure(
        "spread",
        f"How evenly positions fill each circle, {view.name}",
        f"Star discrepancy of the angles of positions 0 to {format_length(geometry.original_length)} in training, "
        f"and to {format_length(target)} under each method. Low is even; near 1 the pair hardly moves.",
        (Panel(tuple(lines), Axis("pair"), Axis("star discrepancy D*", "share of a turn", "log")),),
        alt=f"In training mean {trained.mean():.3f}; at the target " + ", ".join(notes),
    )
