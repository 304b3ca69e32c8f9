"""Wavelength per pair under each method, against the original and the target length."""

from __future__ import annotations

from ropewalk.report.figure import Axis, Figure, Guide, Line, Panel, series_color, series_dash, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.units import format_length


@figure_kind("wavelength", shows="tokens per turn of every pair, before and after", source="model")
def figure(view: ModelView) -> Figure:
    """lambda_i = 2 pi / theta'_i in tokens, one line a method."""
    index = [float(pair) for pair in range(view.geometry.half_dim)]
    original = [significant(value) for value in view.geometry.wavelength]
    lines = [Line("unscaled", index, original, "ink", width=2.5)]
    for number, (label, made) in enumerate(zip(view.labels(), view.schedules, strict=True)):
        values = [significant(value) for value in made.wavelength]
        lines.append(Line(label, index, values, series_color(number), series_dash(number)))
    short, long = view.geometry.original_length, view.target_length
    guides = (
        Guide(short, f"original length {format_length(short)}", "y"),
        Guide(long, f"target length {format_length(long)}", "y"),
    )
    turning = sum(1 for value in view.geometry.rotations if value >= 1.0)
    return Figure(
        "wavelength",
        f"Wavelength of each pair, {view.name}",
        f"Tokens per full turn. {turning} of {view.geometry.half_dim} pairs complete a turn inside the original "
        "window; pairs above its line have never shown their whole circle to the model.",
        (Panel((*lines, *guides), Axis("pair"), Axis("wavelength", "tokens", "log")),),
        alt=f"Wavelength rises with the pair index from {original[0]} tokens; {turning} pairs stay below "
        f"{short} tokens unscaled.",
    )
