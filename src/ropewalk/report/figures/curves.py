"""Curves of runs as lines: names that tell runs apart, control styles, bands."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.report.figure import Dash, Line, series_color, series_dash, significant
from ropewalk.report.reading import Curve, number, thinned
from ropewalk.report.views import RunView

MOST_SHOWN = 8
MOST_BANDS = 4


def lines(curves: Sequence[Curve], *, marker: bool) -> list[Line]:
    """One line a curve. Controls are grey and dashed; beyond eight, measured curves wait in the legend, and beyond
    four bands would hide each other and are left to the table."""
    bands = len(curves) <= MOST_BANDS
    drawn: list[Line] = []
    measured = controls = 0
    for curve, name in zip(curves, _names(curves), strict=True):
        if curve.role == "control":
            color = "ink" if controls % 2 else "muted"
            dash: Dash = "dash" if controls < 2 else "dot"
            drawn.append(_line(curve, name, color, dash, marker, bands))
            controls += 1
        else:
            color, shown = series_color(measured), measured < MOST_SHOWN
            drawn.append(_line(curve, name, color, series_dash(measured), marker, bands, shown))
            measured += 1
    return drawn


def _names(curves: Sequence[Curve]) -> list[str]:
    """What each is called: the curves of two runs may bear one name, and the run's then tells them apart."""
    several = len({curve.run.id for curve in curves}) > 1
    return [f"{curve.name} ({curve.run.id})" if several else curve.name for curve in curves]


def _line(
    curve: Curve, name: str, color: str, dash: Dash, marker: bool, bands: bool, shown: bool = True
) -> Line:
    rows = thinned(curve.rows)
    banded = bands and all(row.low is not None and row.high is not None for row in rows)
    return Line(
        name,
        [row.at for row in rows],
        [significant(row.value, 5) for row in rows],
        color,
        dash,
        marker=marker,
        low=[significant(row.low, 5) for row in rows] if banded else None,
        high=[significant(row.high, 5) for row in rows] if banded else None,
        shown=shown,
    )


def clipped(curves: Sequence[Curve]) -> tuple[tuple[float, float] | None, str]:
    """Where the loss axis ends, and what is said of the curves that leave it.

    One model that breaks would flatten all others into a line. So the axis holds every curve whose highest value lies
    within twice the spread of the lower half of them; (None, "") where that is all of them.
    """
    tops = [max(row.value for row in curve.rows) for curve in curves]
    highest = dict(zip(_names(curves), tops, strict=True))
    lowest = min(row.value for curve in curves for row in curve.rows)
    half = sorted(highest.values())[(len(highest) - 1) // 2]
    # At least a twentieth of a nat: curves that hardly differ would be cut at their own noise.
    top = lowest + 2.0 * max(half - lowest, 0.05)
    beyond = {name: value for name, value in highest.items() if value > top}
    if not beyond:
        return None, ""
    # Down to the highest curve that is kept, or the axis would end in empty space.
    top = max([value for value in highest.values() if value <= top], default=top)
    room = 0.06 * (top - lowest)
    named = ", ".join(
        f"{name} (to {value:.2f})" for name, value in sorted(beyond.items(), key=lambda item: item[1])[:4]
    )
    more = f" and {len(beyond) - 4} more" if len(beyond) > 4 else ""
    return (lowest - room, top + room), f" The axis ends at {top:.2f} nats; beyond it run {named}{more}."


def windows(views: Sequence[RunView]) -> list[tuple[float, str]]:
    """(tokens, label) of the original and the target length, each where every run that states one states the same."""
    found: list[tuple[float, str]] = []
    for key, label in (("original_length", "original length"), ("target_length", "target length")):
        stated = {
            value
            for view in views
            for document in (view.result, view.request)
            if (value := number(document.get(key)))
        }
        if len(stated) == 1 and min(stated) > 0:
            found.append((stated.pop(), label))
    return sorted(found)


def sources(curves: Sequence[Curve]) -> tuple[str, ...]:
    """Where the numbers come from: run, file and path within it, each once."""
    return tuple(dict.fromkeys(f"{curve.run.id}/result.json{curve.path}" for curve in curves))
