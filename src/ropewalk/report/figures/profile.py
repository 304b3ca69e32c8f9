"""Stretch profile of each method: m in theta'_i = theta_i * s ** -m_i."""

from __future__ import annotations

import math

import numpy as np

from ropewalk.geometry import FloatArray
from ropewalk.report.figure import Axis, Figure, Guide, Line, Panel, series_color, series_dash, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length


@figure_kind("profile", shows="how much each method stretches each pair", source="model")
def figure(view: ModelView) -> Figure:
    """0 leaves a pair alone, 1 interpolates it by the whole factor; a stopped pair has no profile and is a gap."""
    index = [float(pair) for pair in range(view.geometry.half_dim)]
    layers: list[Line | Guide] = []
    for number, (label, made) in enumerate(zip(view.labels(), view.schedules, strict=True)):
        values = [significant(value) for value in _shares(made, view)]
        layers.append(Line(label, index, values, series_color(number), series_dash(number)))
    layers.append(Guide(0.0, "left alone", "y"))
    layers.append(Guide(1.0, "fully interpolated", "y", far=True))
    last_turning = view.geometry.critical_dim // 2 - 1
    if 0 <= last_turning < view.geometry.half_dim - 1:
        layers.append(Guide(last_turning + 0.5, "turns less than once", far=True))
    factor = view.target_length / view.geometry.original_length
    return Figure(
        "profile",
        f"Stretch profile at factor {factor:g}, {view.name}",
        f"How much of the factor each pair gets on the way from {format_length(view.geometry.original_length)} to "
        f"{format_length(view.target_length)} tokens. Right of the vertical line no pair turned once in training.",
        (Panel(tuple(layers), Axis("pair"), Axis("stretch profile m", "exponent of the factor")),),
        alt="One line a method from pair 0 to the last; " + "; ".join(_ends(view)),
    )


def _shares(made: FrequencySchedule, view: ModelView) -> FloatArray:
    """ln(stretch) / ln(s) with the figure's own s, so that schedules of other nominal factors stand on one scale."""
    factor = view.target_length / view.geometry.original_length
    # A pair that is stopped is stretched without end, which is drawn as a gap and is nothing to warn of.
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(made.stretch) / math.log(factor), dtype=np.float64)


def _ends(view: ModelView) -> list[str]:
    return [
        f"{label} from {_shares(made, view)[0]:.2f} to {_shares(made, view)[-1]:.2f}"
        for label, made in zip(view.labels(), view.schedules, strict=True)
    ]
