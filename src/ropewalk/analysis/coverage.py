"""Angles seen in training against angles met after a stretch, pair by pair, as shares of the circle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropewalk.geometry import PerPair
from ropewalk.schedule import FrequencySchedule

_TURN = 2 * np.pi


@dataclass(frozen=True)
class Coverage:
    """Per pair, shape (half_dim,), all shares in [0, 1].

    `seen` is the share of the circle that absolute angles visit in training, positions 0 .. L-1. `seen_relative` is
    the share that angles of *distances* visit: attention sees them from both sides of zero when the sign counts, so
    that it is twice as wide until it closes. `visited` is what positions 0 .. L'-1 visit under the schedule,
    `unseen` the share of that which training never visited, and `unseen_weight` the share of all query-key pairs at
    L' whose angle is unseen.
    """

    seen: PerPair
    seen_relative: PerPair
    visited: PerPair
    unseen: PerPair
    unseen_weight: PerPair


def coverage(schedule: FrequencySchedule, target_length: int | None = None) -> Coverage:
    """Seen-angle coverage of a schedule at its target length. Arcs start at angle 0 before and after."""
    geometry = schedule.geometry
    target = schedule.target_length if target_length is None else target_length
    trained = (geometry.original_length - 1) * geometry.inv_freq / _TURN
    reached = (target - 1) * schedule.inv_freq / _TURN
    seen, visited = np.minimum(1.0, trained), np.minimum(1.0, reached)
    with np.errstate(divide="ignore", invalid="ignore"):
        # np.where computes both sides; the 0/0 of a stopped pair is never taken.
        unseen = np.where(visited > seen, (visited - seen) / visited, 0.0)
    weights = [_unseen_weight(arc, freq, target) for arc, freq in zip(seen, schedule.inv_freq, strict=True)]
    return Coverage(seen, np.minimum(1.0, 2.0 * trained), visited, unseen, np.array(weights))


def _unseen_weight(seen: float, inv_freq: float, target: int) -> float:
    """Share of the query-key pairs (distance m has target - m of them) whose angle falls outside the arc [0, seen]."""
    if seen >= 1.0 or inv_freq <= 0.0:
        return 0.0
    wavelength = _TURN / inv_freq
    turns = np.arange(np.ceil(target / wavelength))
    # Each turn goes through the seen arc first and through the rest of the circle after it.
    starts = np.minimum((turns + seen) * wavelength, target)
    ends = np.minimum((turns + 1.0) * wavelength, target)
    # The count of pairs between two distances a < b is the integral of (target - m).
    outside = np.sum((target - starts) ** 2 - (target - ends) ** 2)
    return float(outside / target**2)


def star_discrepancy(inv_freq: PerPair, length: int) -> PerPair:
    """How unevenly positions 0 .. length-1 fall on each pair's circle: the star discrepancy D*, shape like inv_freq.

    D* = max over arcs from 0 of |share of positions inside - length of the arc|. It is near 1/length for a perfectly
    even spread, near 1 for a pair that hardly moves. This is the figure for "check that the distribution is even".
    """
    positions = np.arange(length, dtype=np.float64)
    rank = np.arange(1, length + 1, dtype=np.float64)
    found = np.empty(inv_freq.size)
    # Pair by pair: all at once would sort length * half_dim numbers in memory.
    for pair, theta in enumerate(inv_freq):
        points = np.sort(np.mod(positions * (theta / _TURN), 1.0))
        found[pair] = max(
            float(np.max(rank / length - points)), float(np.max(points - (rank - 1.0) / length))
        )
    return found
