"""Training curves with length stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.report.figure import Axis, Figure, Line, NoDataError, Panel, Span, series_color, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.reading import number
from ropewalk.report.views import RunView
from ropewalk.units import format_length

MOST_POINTS = 400


@figure_kind(
    "training", shows="training curves with length stages", source="run", run_kinds=("train", "tune")
)
def figure(views: Sequence[RunView]) -> Figure:
    """Loss and speed over steps; shaded where the sample length changes."""
    views = [view for view in views if view.metrics]
    if not views:
        raise NoDataError(
            "no metrics in this run", hint="`ropewalk train RECIPE` writes metrics.jsonl as it runs"
        )
    several = len(views) > 1
    loss: list[Line] = []
    speed: list[Line] = []
    for index, view in enumerate(views):
        suffix = f" ({view.id})" if several else ""
        steps = [line for line in view.metrics if line.get("kind") != "evaluation"]
        # Three colours a run: training, held-out, and the first of the held-out lengths.
        loss.append(_line(f"training{suffix}", steps, "loss", 3 * index, width=1.2))
        held_out = [line for line in view.metrics if line.get("kind") == "evaluation"]
        loss += _evaluations(held_out, suffix, 3 * index)
        speed.append(_line(f"tokens per second{suffix}", steps, "tokens_per_s", 3 * index))
    # Runs side by side change lengths at different steps, and shading could follow only one of them.
    spans = tuple(_stages(views[0].metrics)) if not several else ()
    panels = [
        Panel(
            (*spans, *[line for line in loss if line.x]), Axis("step"), Axis("loss", "nats per token"), "loss"
        )
    ]
    if any(line.x for line in speed):
        speeds = tuple(line for line in speed if line.x)
        panels.append(Panel((*spans, *speeds), Axis("step"), Axis("speed", "tokens per second"), "speed"))
    return Figure(
        "training",
        "Training",
        "Loss by step; shading marks stages of the sample length. Held-out loss is the mean over its lengths.",
        tuple(panels),
        height=380 * len(panels),
        alt="; ".join(f"{line.name} from {line.y[0]} to {line.y[-1]}" for line in loss if line.x),
        sources=tuple(f"{view.id}/metrics.jsonl" for view in views),
    )


def _evaluations(lines: Sequence[Mapping[str, Any]], suffix: str, first: int) -> list[Line]:
    names = sorted({name for line in lines for name in line if name.startswith("loss@")}, key=_length_of)
    found = [_line(f"held-out{suffix}", lines, "loss", first + 1, marker=True)]
    for index, name in enumerate(names if len(names) > 1 else []):
        label = f"held-out at {format_length(_length_of(name))}{suffix}"
        found.append(_line(label, lines, name, first + 2 + index, marker=True, width=1.4))
    return found


def _length_of(name: str) -> int:
    text = name.partition("@")[2]
    return int(text) if text.isdigit() else 0


def _line(
    name: str,
    lines: Sequence[Mapping[str, Any]],
    key: str,
    index: int,
    *,
    marker: bool = False,
    width: float = 2.0,
) -> Line:
    points = [
        (step, value)
        for line in lines
        if (step := number(line.get("step"))) is not None and (value := number(line.get(key))) is not None
    ]
    points = _thinned(points)
    return Line(
        name,
        [step for step, _ in points],
        [significant(value, 5) for _, value in points],
        series_color(index),
        marker=marker and len(points) <= 60,
        width=width,
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    kept = []
    for index in range(MOST_POINTS):
        part = points[index * len(points) // MOST_POINTS : (index + 1) * len(points) // MOST_POINTS]
        # At its last step, so that a running curve ends where the run stands.
        kept.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return kept


def _stages(metrics: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Ranges of steps with one sample length."""
    spans: list[tuple[float, float, int]] = []
    for line in metrics:
        step, length = number(line.get("step")), number(line.get("length"))
        if step is None or length is None:
            continue
        if spans and spans[-1][2] == int(length):
            spans[-1] = (spans[-1][0], step, int(length))
        else:
            # From the last step of the stage before, so that no white is left between two shades.
            spans.append((spans[-1][1] if spans else step, step, int(length)))
    return [
        Span(first, last, format_length(length), shaded=index % 2 == 1)
        for index, (first, last, length) in enumerate(spans)
    ]
