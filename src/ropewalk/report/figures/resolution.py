"""Neighbour resolution: how far apart neighbouring tokens still stand as the factor grows."""

from __future__ import annotations

import math

from ropewalk.analysis import neighbour_resolution
from ropewalk.errors import RopewalkError
from ropewalk.methods import schedule
from ropewalk.report.figure import Axis, Figure, Guide, Line, Panel, series_color, series_dash, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.schedule import FrequencySchedule


@figure_kind("resolution", shows="how far apart neighbouring tokens still stand", source="model")
def figure(view: ModelView) -> Figure:
    """(1 - B'(1)) / (1 - B(1)) over the factor; 1 is the unmodified model, linear falls as about 1/s**2."""
    largest = view.target_length / view.geometry.original_length
    lines = []
    for number, (label, made) in enumerate(zip(view.labels(), view.schedules, strict=True)):
        factors, values = _curve(made, largest)
        lines.append(Line(label, factors, values, series_color(number), series_dash(number), marker=True))
    axis = Axis("factor", "times the original length", "log", _ticks(largest))
    return Figure(
        "resolution",
        f"Resolution between neighbours, {view.name}",
        "How far apart two neighbouring tokens stand, as a share of the unmodified model's. A method that slows the "
        "fast pairs blurs word order.",
        (
            Panel(
                (*lines, Guide(1.0, "unmodified", "y")),
                axis,
                Axis("resolution", "share of the original", "log"),
            ),
        ),
        alt=f"At factor {largest:g}: " + ", ".join(f"{line.name} {line.y[-1]:.3f}" for line in lines),
    )


def _curve(made: FrequencySchedule, largest: float) -> tuple[list[float], list[float | None]]:
    """The method from no stretch to this schedule; only the schedule itself where it cannot be made in between.

    A schedule may have another nominal factor than the figure's largest: its own grows in proportion.
    """
    steps = 12
    # By equal ratios, since the axis is logarithmic.
    factors = [largest ** (step / steps) for step in range(steps)]
    values: list[float | None] = []
    for step in range(steps):
        try:
            nominal = made.factor ** (step / steps)
            other = schedule(made.method, made.geometry, factor=nominal, **dict(made.parameters))
        except RopewalkError:
            return [largest], [significant(neighbour_resolution(made))]
        values.append(significant(neighbour_resolution(other)))
    return [*factors, largest], [*values, significant(neighbour_resolution(made))]


def _ticks(largest: float) -> tuple[tuple[float, str], ...]:
    powers = range(math.floor(math.log2(largest)) + 1)
    return tuple((float(2**power), str(2**power)) for power in powers)
