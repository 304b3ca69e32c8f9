"""The rotary kernel: what the dot product of two equal vectors becomes with their distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ropewalk.geometry import FloatArray
from ropewalk.schedule import FrequencySchedule


def rotary_kernel(inv_freq: FloatArray, length: int) -> FloatArray:
    """B(m) = sum_i cos(m theta_i) / (d/2) for every distance m = 0 .. length-1, exactly, shape (length,).

    With m = k*block + j, cos(m theta) is the real part of exp(i k block theta) * exp(i j theta), so that the whole
    curve is one matrix product instead of length * d/2 cosines.
    """
    block = max(1, math.isqrt(length))
    rows = -(-length // block)
    coarse = np.outer(np.arange(rows, dtype=np.float64) * block, inv_freq)
    fine = np.outer(np.arange(block, dtype=np.float64), inv_freq)
    grid = np.cos(coarse) @ np.cos(fine).T - np.sin(coarse) @ np.sin(fine).T
    return np.asarray(grid.reshape(-1)[:length] / inv_freq.size)


def kernel_at(inv_freq: FloatArray, distance: NDArray[np.int64]) -> FloatArray:
    """B(m) at chosen distances."""
    return np.asarray(np.cos(np.outer(distance, inv_freq)).mean(axis=1))


def decay_curve(schedule: FrequencySchedule, *, points: int = 512) -> tuple[NDArray[np.int64], FloatArray]:
    """(distances, B'(m)) for drawing: every distance near the query, log-spaced beyond, up to the target length."""
    last = max(schedule.target_length - 1, 1)
    near = np.arange(min(64, last + 1))
    far = np.unique(np.geomspace(1, last, points).round().astype(np.int64))
    distance = np.unique(np.concatenate([near, far])).astype(np.int64)
    return distance, kernel_at(schedule.inv_freq, distance)


def long_range_similarity(schedule: FrequencySchedule) -> float:
    """Mean B'(m) over the last quarter of the target window: where it nears 0, far tokens can no longer be told by
    likeness (similarity collapse)."""
    length = schedule.target_length
    return float(rotary_kernel(schedule.inv_freq, length)[3 * length // 4 :].mean())


def kernel_distortion(schedule: FrequencySchedule) -> float:
    """Root mean square of B'(m) - B(m) over m < original_length: how much the schedule changes what the model already
    knew inside its window. 0 for the unmodified model."""
    length = schedule.geometry.original_length
    before = rotary_kernel(schedule.geometry.inv_freq, length)
    after = rotary_kernel(schedule.inv_freq, length)
    return float(np.sqrt(np.mean((after - before) ** 2)))


def neighbour_resolution(schedule: FrequencySchedule) -> float:
    """1 - B'(1) over 1 - B(1): how far apart neighbouring tokens stand; 1 unmodified, about 1/s**2 under linear."""
    before = 1.0 - kernel_at(schedule.geometry.inv_freq, np.array([1]))[0]
    after = 1.0 - kernel_at(schedule.inv_freq, np.array([1]))[0]
    return float(after / before)
