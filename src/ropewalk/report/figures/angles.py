"""Seen and unseen angles: where each pair's angle travels in training, and where after the stretch."""

from __future__ import annotations

import math

from ropewalk.analysis import coverage, out_of_bound
from ropewalk.report.figure import Axis, Figure, Line, Panel, Text
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.units import format_length

MOST_PAIRS = 32
MOST_METHODS = 5
_PER_ROW = 8
_SLOW = MOST_PAIRS - _PER_ROW
_PITCH = 2.5
_OUTER, _INNER = 1.0, 0.68
# Enough for a circle this small to look round; every point of every pair is in the page.
_STEPS_A_TURN = 28

Path = tuple[list[float | None], list[float | None]]


@figure_kind("angles", shows="angles seen in training and met after the stretch, as circles", source="model")
def figure(view: ModelView) -> Figure:
    """Outer ring: the arc that training visited. Inner ring: what the target length visits, new angles apart."""
    pairs = chosen_pairs(view.geometry.half_dim)
    views = [("unscaled", view.unscaled), *zip(view.labels(), view.schedules, strict=True)][
        : MOST_METHODS + 1
    ]
    panels: list[Panel] = []
    shares = []
    for label, made in views:
        found = coverage(made, view.target_length)
        arcs = [(float(found.seen[pair]), float(found.visited[pair])) for pair in pairs]
        new = int(out_of_bound(made, view.target_length).sum())
        panels.append(_panel(f"{label}: {new} pairs meet new angles", pairs, arcs, first=not panels))
        shares.append(f"{label} {new}")
    columns = min(2, len(panels))
    rows = math.ceil(len(pairs) / _PER_ROW)
    return Figure(
        "angles",
        f"Angles seen and unseen, {view.name}",
        f"One circle a pair, angle 0 at the right. Outer ring: where the angle travels over "
        f"{format_length(view.geometry.original_length)} positions in training. Inner ring: over "
        f"{format_length(view.target_length)} positions, angles that training never showed in the second colour.",
        tuple(panels),
        columns=columns,
        height=40 + (50 * rows + 24) * math.ceil(len(panels) / columns),
        alt="Pairs that meet angles never seen in training: " + ", ".join(shares),
    )


def chosen_pairs(half_dim: int) -> list[int]:
    """Every pair, or eight of the fast ones and the last 24, where angles stay unseen."""
    if half_dim <= MOST_PAIRS:
        return list(range(half_dim))
    fast = half_dim - _SLOW
    return [step * fast // _PER_ROW for step in range(_PER_ROW)] + list(range(fast, half_dim))


def _panel(title: str, pairs: list[int], arcs: list[tuple[float, float]], *, first: bool) -> Panel:
    track: Path = ([], [])
    seen: Path = ([], [])
    known: Path = ([], [])
    new: Path = ([], [])
    centres = [((n % _PER_ROW) * _PITCH, -(n // _PER_ROW) * _PITCH) for n in range(len(pairs))]
    for centre, (before, after) in zip(centres, arcs, strict=True):
        _arc(track, centre, _OUTER, 0.0, 1.0)
        _arc(seen, centre, _OUTER, 0.0, before)
        _arc(known, centre, _INNER, 0.0, min(before, after))
        if after > before:
            _arc(new, centre, _INNER, before, after)
    layers = (
        Line("whole circle", *track, color="grid", width=2, legend=False),
        Line("seen in training", *seen, color="series-0", width=3, legend=first),
        Line("met at the target, seen", *known, color="series-2", width=3, legend=first),
        Line("met at the target, never seen", *new, color="series-1", width=3, legend=first),
        Text(tuple(x for x, _ in centres), tuple(y for _, y in centres), tuple(str(pair) for pair in pairs)),
    )
    return Panel(layers, Axis(""), Axis(""), title, bare=True)


def _arc(path: Path, centre: tuple[float, float], radius: float, start: float, end: float) -> None:
    """Append an arc between two shares of a turn to a path with gaps."""
    steps = max(1, math.ceil((end - start) * _STEPS_A_TURN))
    for step in range(steps + 1):
        angle = 2 * math.pi * (start + (end - start) * step / steps)
        path[0].append(round(centre[0] + radius * math.cos(angle), 2))
        path[1].append(round(centre[1] + radius * math.sin(angle), 2))
    # A gap, so that all arcs of a kind are one line and one entry of the legend.
    path[0].append(None)
    path[1].append(None)
