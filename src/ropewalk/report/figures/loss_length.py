"""Loss by length, with confidence intervals and controls."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.report.figure import Axis, Figure, Guide, NoDataError, Panel, length_axis
from ropewalk.report.figures.curves import MOST_BANDS, clipped, lines, sources, windows
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import loss_curves
from ropewalk.report.views import RunView
from ropewalk.units import format_length


@figure_kind(
    "loss-length",
    shows="loss by length, with confidence intervals and controls",
    source="run",
    run_kinds=("eval", "compare", "tune"),
)
def figure(views: Sequence[RunView]) -> Figure:
    """Mean loss over the first l tokens, one line for each model, method or control."""
    curves = [curve for view in views for curve in loss_curves(view)]
    if not curves:
        raise NoDataError(
            "no loss by length in this run",
            hint="`ropewalk eval MODEL --lengths 4k..32k --tasks ppl` measures it",
        )
    drawn = lines(curves, marker=True)
    lengths = [row.at for curve in curves for row in curve.rows]
    guides = [
        Guide(at, f"{label} {format_length(int(at))}")
        for at, label in windows(views)
        if min(lengths) < at < max(lengths)
    ]
    measured = [curve for curve in curves if curve.role == "measured"] or curves
    best = min(measured, key=lambda curve: curve.rows[-1].value)
    limits, beyond = clipped(curves)
    return Figure(
        "loss-length",
        "Loss by length",
        "Mean next-token loss; lower is better. "
        + ("Bands are 95 % confidence intervals. " if len(curves) <= MOST_BANDS else "")
        + "A stretch that helps stays below the cropped control, the same model that sees only its last window."
        + beyond,
        (
            Panel(
                (*drawn, *guides),
                length_axis("length", lengths),
                Axis("loss", "nats per token", limits=limits),
            ),
        ),
        alt=f"Lowest at {format_length(int(best.rows[-1].at))}: {best.name} with {best.rows[-1].value:.3f} nats.",
        sources=sources(curves),
    )
