"""What each method costs at short length against what it gains at long length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.report.figure import Axis, Figure, Guide, NoDataError, Panel, Points, series_color, significant
from ropewalk.report.reading import mappings, number
from ropewalk.report.views import RunView

# Labels of points nearer than this share of both axes would stand on each other; the legend names them then.
_NEAR = 0.12


def figure(views: Sequence[RunView]) -> Figure:
    """x: loss in the original window less the unmodified model's. y: the cropped control's loss less the method's."""
    points = []
    for view in views:
        short, long = baselines(view)
        for index, row in enumerate(mappings(view.result.get("methods"))):
            inside, target = number(row.get("loss_in_window")), number(row.get("loss_at_target"))
            if None not in (short, long, inside, target):
                assert short is not None
                assert long is not None
                assert inside is not None
                assert target is not None
                name = str(row.get("name") or f"method {index}")
                label = f"{name} ({view.id})" if len(views) > 1 else name
                points.append(
                    (label, inside - short, long - target, f"{view.id}/result.json/methods/{index}")
                )
    if not points:
        raise NoDataError(
            "no losses in the window and at the target beside their controls in this run",
            hint="`ropewalk compare MODEL --target 8x` measures them",
        )
    apart = _apart([(cost, gain) for _, cost, gain, _ in points])
    layers = [
        Points(
            label,
            [significant(cost, 4)],
            [significant(gain, 4)],
            (label if apart else "",),
            series_color(index),
            legend=not apart,
        )
        for index, (label, cost, gain, _) in enumerate(points)
    ]
    guides = (
        Guide(0.0, "no cost at short length", far=True),
        Guide(0.0, "cropping does as well", "y", far=True),
    )
    best = max(points, key=lambda point: point[2])
    return Figure(
        "trade",
        "Cost at short length, gain at long length",
        "To the right: worse inside the original window than the unmodified model. Up: better at the target than the "
        "same model that sees only its last window of tokens. The best corner is upper left.",
        (
            Panel(
                (*layers, *guides),
                Axis("cost in the original window", "nats per token"),
                Axis("gain over cropping at the target", "nats per token"),
            ),
        ),
        alt=f"Largest gain: {best[0]} with {best[2]:.3f} nats at a cost of {best[1]:.3f}.",
        sources=tuple(source for _, _, _, source in points),
    )


def baselines(view: RunView) -> tuple[float | None, float | None]:
    """(unmodified loss in the window, cropped loss at the target) of a comparison."""
    controls = view.result.get("controls")
    found: Mapping[str, Any] = controls if isinstance(controls, Mapping) else {}
    short = _loss(found.get("unmodified"), "loss_in_window")
    if short is None:
        rows = mappings(view.result.get("methods"))
        short = next((number(row.get("loss_in_window")) for row in rows if row.get("name") == "none"), None)
    return short, _loss(found.get("cropped"), "loss_at_target")


def _loss(control: Any, key: str) -> float | None:
    return number(control.get(key)) if isinstance(control, Mapping) else None


def _apart(points: Sequence[tuple[float, float]]) -> bool:
    """Whether no two points are so near that their labels would meet."""
    spans = [max(max(values) - min(values), 1e-12) for values in zip(*points, strict=True)]
    return not any(
        all(abs(a - b) < _NEAR * span for a, b, span in zip(one, two, spans, strict=True))
        for index, one in enumerate(points)
        for two in points[:index]
    )
