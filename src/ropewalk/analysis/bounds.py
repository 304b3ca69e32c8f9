"""Bounds that follow from the geometry: pairs out of bound, the smallest base for a length, betas that fit a window."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ropewalk.analysis.base_table import BASE_BOUNDS
from ropewalk.analysis.decay import kernel_at, rotary_kernel
from ropewalk.errors import UsageError
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.schedule import FrequencySchedule

# Angles a rounding error past the bound are not out of it.
_SLACK = 1e-9
_SCAN_STEP = 0.005
_LARGEST_BASE = 1e12
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


def base_bound(rotary_dim: int, length: int) -> float:
    """The smallest rope_theta with sum_i cos(m theta_i) >= 0 for every distance m < length (arXiv:2405.14591).

    Found by an ascending scan in steps of half a per cent over every whole distance; infinite where no base up to
    1e12 does. The condition holds in narrow bands before it holds for good, so published values (d = 128: 2.7e4 at
    4k, 6.4e5 at 32k, 7.8e6 at 128k) differ from an exact scan (2.9e4, 6.3e5, 8.3e6) by how finely they looked.
    Common cases come from a table that `tools/base_table.py` makes with `scan_base_bound`.
    """
    if rotary_dim < 2 or rotary_dim % 2:
        raise UsageError(
            f"rotary_dim={rotary_dim} is not a positive even number", hint="give a head's rotary part"
        )
    known = BASE_BOUNDS.get((rotary_dim, length))
    return scan_base_bound(rotary_dim, length) if known is None else known


def scan_base_bound(rotary_dim: int, length: int) -> float:
    """`base_bound` computed: about a second at 128k."""
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    worst: int | None = None
    for step in range(int((math.log(_LARGEST_BASE) - math.log(2.0)) / _SCAN_STEP)):
        rope_theta = 2.0 * math.exp(step * _SCAN_STEP)
        worst = _negative_distance(rope_theta**-exponents, length, worst)
        if worst is None:
            return rope_theta
    return math.inf


def _negative_distance(inv_freq: FloatArray, length: int, hint: int | None) -> int | None:
    """A distance below `length` at which the kernel is negative, or None. The last base's distance is tried first:
    the next base mostly fails right beside it."""
    if hint is not None:
        reach = max(64, hint // 200)
        near = np.unique(
            np.clip(np.linspace(hint - reach, hint + reach, 129).astype(np.int64), 0, length - 1)
        )
        kernel = kernel_at(inv_freq, near)
        if kernel.min() < 0.0:
            return int(near[np.argmin(kernel)])
    part = min(length, 512)
    while True:
        whole = rotary_kernel(inv_freq, part)
        if whole.min() < 0.0:
            return int(np.argmin(whole))
        if part == length:
            return None
        part = min(length, part * 4)


def suggested_betas(geometry: RopeGeometry) -> tuple[float, float]:
    """(beta_fast, beta_slow) that follow the window: 32 and 1 at 4096 tokens, in proportion below, never above.

    beta_fast = 32 asks for pairs that turn 32 times; in a window of 512 tokens only the first few do, and by-parts
    becomes nearly linear. The proportion keeps the same share of the pairs unscaled. A heuristic: measure it.
    """
    fast = _REFERENCE_BETA * min(1.0, geometry.original_length / _REFERENCE_LENGTH)
    return max(fast, 2.0), 1.0
