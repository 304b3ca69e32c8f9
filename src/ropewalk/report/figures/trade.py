"""What each method costs at short length against what it gains at long length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.report.figure import Axis, Figure, Guide, NoDataError, Panel, Points, series_color, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import mappings, number
from ropewalk.report.views import RunView

# Labels of points nearer than this share of both axes would stand on each other; the legend names them then.
_NEAR = 0.12


@dataclass(frozen=True)
class _Method:
    label: str
    cost: float
    gain: float
    source: str


@figure_kind(
    "trade", shows="cost at short length against gain at long length", source="run", run_kinds=("compare",)
)
def figure(views: Sequence[RunView]) -> Figure:
    """x: loss in the original window less the unmodified model's. y: the cropped control's loss less the method's."""
    found = [method for view in views for method in _methods(view, several=len(views) > 1)]
    if not found:
        raise NoDataError(
            "no losses in the window and at the target beside their controls in this run",
            hint="`ropewalk compare MODEL --target 8x` measures them",
        )
    apart = _apart([(method.cost, method.gain) for method in found])
    layers = [
        Points(
            method.label,
            [significant(method.cost, 4)],
            [significant(method.gain, 4)],
            (method.label if apart else "",),
            series_color(index),
            legend=not apart,
        )
        for index, method in enumerate(found)
    ]
    guides = (
        Guide(0.0, "no cost at short length", far=True),
        Guide(0.0, "cropping does as well", "y", far=True),
    )
    best = max(found, key=lambda method: method.gain)
    x = Axis("cost in the original window", "nats per token")
    y = Axis("gain over cropping at the target", "nats per token")
    return Figure(
        "trade",
        "Cost at short length, gain at long length",
        "To the right: worse inside the original window than the unmodified model. Up: better at the target than the "
        "same model that sees only its last window of tokens. The best corner is upper left.",
        (Panel((*layers, *guides), x, y),),
        alt=f"Largest gain: {best.label} with {best.gain:.3f} nats at a cost of {best.cost:.3f}.",
        sources=tuple(method.source for method in found),
    )


def _methods(view: RunView, *, several: bool) -> Iterator[_Method]:
    short, long = baselines(view)
    if short is None or long is None:
        return
    for index, row in enumerate(mappings(view.result.get("methods"))):
        inside, target = number(row.get("loss_in_window")), number(row.get("loss_at_target"))
        if inside is not None and target is not None:
            name = str(row.get("name") or f"method {index}")
            label = f"{name} ({view.id})" if several else name
            yield _Method(label, inside - short, long - target, f"{view.id}/result.json/methods/{index}")


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
