"""Intervals as a textbook has them, in plain Python, to hold the package's figures against."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

# What a test says: mean, both ends and the two-sided p; ends and p are None for fewer than three units.
Said = tuple[float, float | None, float | None, float | None]


def beyond(t: float, degrees: int) -> float:
    """P(|T| > t) by summing up Student's density over the angle whose tangent is t / sqrt(degrees)."""
    angles = np.linspace(0.0, math.atan(abs(t) / math.sqrt(degrees)), 4001)
    scale = math.gamma((degrees + 1) / 2) / math.sqrt(math.pi) / math.gamma(degrees / 2)
    return 1 - 2 * scale * float(np.trapezoid(np.cos(angles) ** (degrees - 1), angles))


@functools.cache
def point(degrees: int) -> float:
    """The t beyond which 5 % lie, by halving."""
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, degrees) > 0.05 else (low, middle)
    return low


def interval(values: Sequence[float], owners: Sequence[Hashable]) -> Said:
    """The mean of all values and its interval over owners, of which there are two or more."""
    names = list(dict.fromkeys(owners))
    groups = [[value for value, owner in zip(values, owners, strict=True) if owner == name] for name in names]
    shares = [len(group) / len(values) for group in groups]
    means = [sum(group) / len(group) for group in groups]
    mean = sum(values) / len(values)
    count = len(groups)
    if count < 3:
        return mean, None, None, None
    error = (
        sum((share * (one - mean)) ** 2 for share, one in zip(shares, means, strict=True))
        * count
        / (count - 1)
    ) ** 0.5
    half = point(count - 1) * error
    return mean, mean - half, mean + half, beyond(mean / error, count - 1) if error else float(mean == 0)


def credits_interval(differences: Sequence[float], owners: Sequence[Hashable]) -> Said:
    """The same for differences of credits, never narrower than the adjusted Wald interval over the questions."""
    mean, low, high, p = interval(differences, owners)
    if low is None or high is None or p is None:
        return mean, None, None, None
    # One pair more in each direction.
    padded = [*differences, 1.0, -1.0]
    middle = sum(padded) / len(padded)
    error = (sum((one - middle) ** 2 for one in padded) / len(padded) / len(padded)) ** 0.5
    wald = math.erfc(abs(middle) / error / 2**0.5)
    low, high = min(low, middle - 1.959964 * error), max(high, middle + 1.959964 * error)
    return mean, max(-1.0, low), min(1.0, high), max(p, wald)


def ratio(over: Sequence[float], under: Sequence[float], owners: Sequence[Hashable]) -> Said:
    """sum / sum with its interval by linearisation, not below 0."""
    names = list(dict.fromkeys(owners))
    share = sum(over) / sum(under)
    if len(names) < 3:
        return share, None, None, None
    rests = [
        sum(a - share * b for a, b, owner in zip(over, under, owners, strict=True) if owner == name)
        for name in names
    ]
    count = len(names)
    half = point(count - 1) * (sum(rest**2 for rest in rests) * count / (count - 1)) ** 0.5 / sum(under)
    return share, max(0.0, share - half), share + half, None


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """Each p times the number of those that are no smaller, never below one before it."""
    found: dict[Hashable, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, p_values[name] * (len(p_values) - place)))
        found[name] = least
    return found
