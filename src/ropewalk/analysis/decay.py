"""The rotary kernel: what the dot product of two equal vectors becomes with their distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ropewalk.geometry import FloatArray, PerDistance, PerPair
from ropewalk.schedule import FrequencySchedule


def rotary_kernel(inv_freq: PerPair, length: int, *, start: int = 0) -> PerDistance:
    """B(m) = sum_i cos(m theta_i) / (d/2) at the distances m = start .. start+length-1, exactly, shape (length,).

    With m = start + k*block + j, cos(m theta) is the real part of exp(i (start + k block) theta) * exp(i j theta), so
    that the whole curve is one matrix product instead of length * d/2 cosines.
    """
    block = max(1, math.isqrt(length))
    rows = -(-length // block)
    coarse = np.outer(start + np.arange(rows, dtype=np.float64) * block, inv_freq)
    fine = np.outer(np.arange(block, dtype=np.float64), inv_freq)
    grid = np.cos(coarse) @ np.cos(fine).T - np.sin(coarse) @ np.sin(fine).T
    return np.asarray(grid.reshape(-1)[:length] / inv_freq.size)


def kernel_at(inv_freq: PerPair, distance: NDArray[np.int64]) -> PerDistance:
    """B(m) at chosen distances."""
    return np.asarray(np.cos(np.outer(distance, inv_freq)).mean(axis=1))


def decay_curve(schedule: FrequencySchedule, *, points: int = 512) -> tuple[NDArray[np.int64], PerDistance]:
    """(distances, B'(m)) for drawing: every distance near the query, log-spaced beyond, up to the target length."""
    last = max(schedule.target_length - 1, 1)
    near = np.arange(min(64, last + 1))
    far = np.unique(np.geomspace(1, last, points).round().astype(np.int64))
    distance = np.unique(np.concatenate([near, far])).astype(np.int64)
    return distance, kernel_at(schedule.inv_freq, distance)


def kernel_distortion(schedule: FrequencySchedule) -> float:
    """Root mean square of B'(m) - B(m) over m < original_length: how much the schedule changes what the model already
    knew inside its window. 0 for the unmodified model.

    In closed form, so that a window of ten million tokens costs no more than one of four thousand: the square of a sum
    of cosines is a sum of cos(m x) cos(m y), whose mean over m is that of two Dirichlet kernels. Rounding leaves about
    1e-7 where a schedule changes next to nothing.
    """
    before, after = schedule.geometry.inv_freq, schedule.inv_freq
    # Pairs that stay cancel; kept in, they would leave nothing but their rounding.
    changed = before != after
    if not changed.any():
        return 0.0
    freq = np.concatenate([after[changed], before[changed]])
    sign = np.concatenate([np.ones(int(changed.sum())), -np.ones(int(changed.sum()))])
    length = schedule.geometry.original_length
    mean = (
        _mean_cosine(freq[:, None] - freq[None, :], length)
        + _mean_cosine(freq[:, None] + freq[None, :], length)
    ) / 2
    # A square of next to nothing may round to below it.
    return math.sqrt(max(0.0, float(sign @ mean @ sign))) / before.size


def _mean_cosine(freq: FloatArray, length: int) -> FloatArray:
    """Mean of cos(m * freq) over m = 0 .. length-1: sin(L f/2) cos((L-1) f/2) / (L sin(f/2)), 1 at f = 0."""
    half = freq / 2
    bottom = length * np.sin(half)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.sin(length * half) * np.cos((length - 1) * half) / bottom
    return np.where(bottom == 0.0, 1.0, mean)


def neighbour_resolution(schedule: FrequencySchedule) -> float:
    """1 - B'(1) over 1 - B(1): how far apart neighbouring tokens stand; 1 unmodified, about 1/s**2 under linear."""
    before = 1.0 - kernel_at(schedule.geometry.inv_freq, np.array([1]))[0]
    after = 1.0 - kernel_at(schedule.inv_freq, np.array([1]))[0]
    return float(after / before)
