"""Loss by position, with a confidence band."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.report.figure import Axis, Figure, Guide, NoDataError, Panel, length_axis
from ropewalk.report.figures.curves import clipped, lines, sources, windows
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import position_curves
from ropewalk.report.views import RunView
from ropewalk.units import format_length


@figure_kind(
    "loss-position", shows="loss by position, with a confidence band", source="run", run_kinds=("eval",)
)
def figure(views: Sequence[RunView]) -> Figure:
    """Loss of the token at each position, one line for each model, method or control."""
    curves = [curve for view in views for curve in position_curves(view)]
    if not curves:
        raise NoDataError(
            "no loss by position in this run",
            hint="`ropewalk eval MODEL --lengths 4k..32k --tasks ppl --protocol prefix` measures it",
        )
    positions = [row.at for curve in curves for row in curve.rows]
    guides = [
        Guide(at, f"{label} {format_length(int(at))}")
        for at, label in windows(views)
        if min(positions) < at < max(positions)
    ]
    axis = length_axis("position", positions)
    limits, beyond = clipped(curves)
    return Figure(
        "loss-position",
        "Loss by position",
        "Next-token loss at each position; lower is better. A model that uses its context keeps falling; one that "
        "breaks rises past its window." + beyond,
        (
            Panel(
                (*lines(curves, marker=False), *guides), axis, Axis("loss", "nats per token", limits=limits)
            ),
        ),
        alt="; ".join(f"{curve.name} ends at {curve.rows[-1].value:.3f} nats" for curve in curves),
        sources=sources(curves),
    )
