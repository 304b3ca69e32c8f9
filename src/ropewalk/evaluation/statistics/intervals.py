"""95 % intervals over documents, and over paired differences where two models read the same text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None where one unit allows no interval."""

    mean: float
    low: float | None
    high: float | None
    units: int

    @property
    def pair(self) -> list[float] | None:
        """`[low, high]`, or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t.

    >>> t_quantile(1), round(t_quantile(100), 3)
    (12.706, 1.984)
    """
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def mean_interval(values: Sequence[float], owners: Sequence[int] | None = None) -> Interval:
    """Mean over all values, interval over documents (`owners[i]` is the document of value i).

    Segments of one document are not independent, so documents are the units; with one document only, its
    segments are the units, which makes the interval too narrow rather than absent. One value has no interval.
    """
    numbers = np.asarray(values, dtype=np.float64)
    groups = np.zeros(len(numbers), dtype=int) if owners is None else np.asarray(owners)
    names = np.unique(groups)
    if owners is None or len(names) < 2:
        units, weights = numbers, np.ones(len(numbers))
    else:
        units = np.array([numbers[groups == name].mean() for name in names])
        weights = np.array([(groups == name).sum() for name in names], dtype=np.float64)
    mean, count = float(numbers.mean()), len(units)
    if count < 2:
        return Interval(mean, None, None, count)
    # A weighted mean of independent units: the variance of its linearisation, which for equal weights is
    # s^2/n.
    shares = weights / weights.sum()
    variance = count / (count - 1) * float(((shares * (units - mean)) ** 2).sum())
    half = t_quantile(count - 1) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, count)


def paired_interval(
    first: Sequence[float], second: Sequence[float], owners: Sequence[int] | None = None
) -> Interval:
    """Interval of `first - second`, value by value: what both have in common cancels."""
    return mean_interval(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), owners)
