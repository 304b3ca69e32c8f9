"""95 % intervals over documents, and over paired differences where two readers read the same text.

One rule for every table: Student's t over the units that are independent (documents; texts with hidden values), at any
number of them. Below `LEAST_UNITS` there is no interval: two values give one that is thirteen times their distance.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluation.statistics.student import quantile, two_sided

Values = Sequence[float] | NDArray[np.float64]
LEAST_UNITS = 3
LEVEL = 0.95
# The normal distribution's 97.5 % point.
_Z = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval over `units`; `low`, `high` and `p` are None where too few units allow none.

    `p` is the two-sided probability of a mean this far from zero where there is no difference.
    """

    mean: float
    low: float | None
    high: float | None
    units: int
    p: float | None = None

    @property
    def pair(self) -> list[float] | None:
        """`[low, high]`, or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]

    def floored(self) -> Interval:
        """The same with an interval that ends at 0, for what cannot be below it: for no differences."""
        if self.low is None or self.high is None:
            return self
        # Both ends: a gain that is counted as none where it is below zero has no interval that runs backwards.
        return Interval(self.mean, max(0.0, self.low), max(0.0, self.high), self.units, self.p)


def mean_interval(values: Values, owners: Sequence[Hashable] | None = None) -> Interval:
    """Mean over all values, interval over documents (`owners[i]` is the document of value i).

    Values of one document are not independent, so documents are the units; with one document only, its values
    are the units, which speaks for that document alone.
    """
    numbers = np.asarray(values, dtype=np.float64)
    groups = _groups(owners, len(numbers))
    if groups.max(initial=0) == 0:
        groups = np.arange(len(numbers))
    weights = np.bincount(groups).astype(np.float64)
    units = np.bincount(groups, weights=numbers) / weights
    return weighted_interval(units, weights)


def weighted_interval(units: Values, weights: Values) -> Interval:
    """Weighted mean of independent units; the variance is that of its linearisation, s^2/n for equal weights."""
    values, shares = np.asarray(units, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    values, shares = values[shares > 0], shares[shares > 0] / shares.sum()
    mean, count = float((shares * values).sum()), len(values)
    if count < LEAST_UNITS:
        return Interval(mean, None, None, count)
    error = math.sqrt(count / (count - 1) * float(((shares * (values - mean)) ** 2).sum()))
    half = quantile(count - 1, LEVEL) * error
    # Units that are all equal have no spread: the mean is then surely what it is, or surely zero.
    p = two_sided(mean / error, count - 1) if error else 0.0 if mean else 1.0
    return Interval(mean, mean - half, mean + half, count, p)


def _groups(owners: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    """Numbers 0, 1, ... for the owners in order of appearance."""
    if owners is None:
        return np.zeros(count, dtype=np.int64)
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(owner, len(places)) for owner in owners], dtype=np.int64)


def paired_interval(first: Values, second: Values, owners: Sequence[Hashable] | None = None) -> Interval:
    """Interval of `first - second`, value by value: what both have in common cancels."""
    return mean_interval(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), owners)


def paired_shares(first: Values, second: Values, owners: Sequence[Hashable] | None = None) -> Interval:
    """`paired_interval` for credits between 0 and 1, never of no width.

    Four texts in which every answer is right have no spread, and Student's interval would be a point. So the error is
    also taken over the questions with one pair added in each direction (Bonett and Price's adjusted Wald interval), and
    the wider of the two stands.
    """
    found = paired_interval(first, second, owners)
    if found.low is None or found.high is None or found.p is None:
        return found
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    count = len(differences) + 2
    middle = float(differences.sum()) / count
    error = math.sqrt((float((differences**2).sum()) + 2) / count - middle**2) / math.sqrt(count)
    # Normal, as Bonett and Price have it: the added pairs make up for the few questions.
    low, high = middle - _Z * error, middle + _Z * error
    p = math.erfc(abs(middle) / error / math.sqrt(2))
    return Interval(
        found.mean,
        max(-1.0, min(found.low, low)),
        min(1.0, max(found.high, high)),
        found.units,
        max(found.p, p),
    )


def ratio_interval(over: Values, under: Values, owners: Sequence[Hashable] | None = None) -> Interval:
    """sum(over) / sum(under) with its interval by linearisation, over documents. `under` must not sum to zero.

    >>> ratio_interval([1, 1, 0.0], [1, 1, 1.0]).mean
    0.6666666666666666
    """
    groups = _groups(owners if owners is not None else list(range(len(over))), len(over))
    top = np.bincount(groups, weights=np.asarray(over, dtype=np.float64))
    base = np.bincount(groups, weights=np.asarray(under, dtype=np.float64))
    ratio, count = float(top.sum() / base.sum()), len(top)
    if count < LEAST_UNITS:
        return Interval(ratio, None, None, count)
    rest = top - ratio * base
    error = math.sqrt(count / (count - 1) * float((rest**2).sum())) / float(base.sum())
    half = quantile(count - 1, LEVEL) * error
    return Interval(ratio, max(0.0, ratio - half), ratio + half, count)
