"""Bounds that follow from the geometry: pairs out of bound, betas that fit a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ropewalk.geometry import RopeGeometry
from ropewalk.schedule import FrequencySchedule

# Angles a rounding error past the bound are not out of it.
_SLACK = 1e-9
# YaRN's betas were set on this window; a smaller one turns its pairs fewer times.
_REFERENCE_LENGTH = 4096
_REFERENCE_BETA = 32.0


def out_of_bound(schedule: FrequencySchedule, target_length: int | None = None) -> NDArray[np.bool_]:
    """Pairs pushed to angles that training never saw, shape (half_dim,).

    Only a pair that did not complete a turn in training (r < 1) has unseen angles: it goes out of bound when its
    angle at the last position, theta'_i * (target_length - 1), exceeds theta_i * original_length.
    """
    geometry = schedule.geometry
    target = schedule.target_length if target_length is None else target_length
    reached = schedule.inv_freq * (target - 1)
    seen = geometry.inv_freq * geometry.original_length
    return np.asarray((geometry.rotations < 1.0) & (reached > seen * (1.0 + _SLACK)))


def suggested_betas(geometry: RopeGeometry) -> tuple[float, float]:
    """(beta_fast, beta_slow) that follow the window: 32 and 1 at 4096 tokens, in proportion below, never above.

    beta_fast = 32 asks for pairs that turn 32 times; in a window of 512 tokens only the first few do. The proportion
    keeps the same share of the pairs unscaled. A heuristic: measure it.

    >>> suggested_betas(RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512))
    (4.0, 1.0)
    """
    fast = _REFERENCE_BETA * min(1.0, geometry.original_length / _REFERENCE_LENGTH)
    # Above beta_slow, or no pair would be left on the ramp.
    return max(fast, 2.0), 1.0
