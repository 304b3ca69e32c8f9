"""Student's t for whole degrees of freedom: its finite sums (Abramowitz and Stegun 26.7.3, 26.7.4), no table."""

from __future__ import annotations

import math


def within(value: float, degrees: int) -> float:
    """P(|T| < value).

    >>> round(within(12.706, 1), 4), round(within(2.0, 60), 4)
    (0.95, 0.95)
    """
    if degrees < 1:
        raise ValueError(f"degrees={degrees}: Student's t needs one or more")
    angle = math.atan(value / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for step in range(3 if odd else 2, degrees - 1, 2):
        term *= square * ((step - 1) / step)
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def two_sided(value: float, degrees: int) -> float:
    """P(|T| >= |value|): what a difference this large, or larger, happens by where there is none."""
    return max(0.0, 1.0 - within(abs(value), degrees))


def quantile(degrees: int, level: float = 0.95) -> float:
    """The value that |T| stays below with probability `level`.

    >>> round(quantile(7), 3), round(quantile(7, 0.99), 3)
    (2.365, 3.499)
    """
    low, high = 0.0, 1.0
    while within(high, degrees) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        # Two neighbouring floats: there is nothing between them any more.
        if middle in (low, high):
            break
        low, high = (middle, high) if within(middle, degrees) < level else (low, middle)
    return high
