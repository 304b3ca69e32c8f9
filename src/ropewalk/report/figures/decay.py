"""Decay of the rotary dot product with distance."""

from __future__ import annotations

from ropewalk.analysis import decay_curve
from ropewalk.report.figure import (
    Axis,
    Figure,
    Guide,
    Line,
    Panel,
    length_axis,
    series_color,
    series_dash,
    significant,
)
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length


@figure_kind("decay", shows="the rotary dot product with distance", source="model")
def figure(view: ModelView) -> Figure:
    """B(m) = mean_i cos(m theta'_i), the dot product of two equal unit vectors m tokens apart."""
    lines = [_line("unscaled", view.unscaled, view.target_length, "ink")]
    for number, (label, made) in enumerate(zip(view.labels(), view.schedules, strict=True)):
        lines.append(_line(label, made, view.target_length, series_color(number), number))
    short = view.geometry.original_length
    guides = (Guide(short, f"original length {format_length(short)}", "x"), Guide(0.0, "", "y"))
    return Figure(
        "decay",
        f"Decay of the dot product with distance, {view.name}",
        "The dot product of two equal vectors after rotation, as their distance grows. Where it nears 0 or turns "
        "negative, likeness no longer tells a far token from any other.",
        (
            Panel(
                (*lines, *guides),
                length_axis("distance", [1, view.target_length]),
                Axis("mean cosine", "-1 to 1"),
            ),
        ),
        alt="Every curve starts at 1 for distance 0; at the target length "
        + ", ".join(f"{line.name} {line.y[-1]:.2f}" for line in lines if line.y[-1] is not None),
    )


def _line(label: str, made: FrequencySchedule, target: int, color: str, number: int = 0) -> Line:
    distance, values = decay_curve(made, points=320)
    # A logarithmic axis has no place for distance 0, where every curve is 1.
    away = (distance > 0) & (distance < target)
    x = [float(value) for value in distance[away]]
    y = [significant(value, 4) for value in values[away]]
    return Line(label, x, y, color, series_dash(number), width=2.5 if color == "ink" else 1.6)
