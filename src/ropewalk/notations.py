"""The four notations in which people meet NTK scaling, and the conversions between them.

With d the rotary dimension, s the factor and b the rope_theta:

- base:  b' = b * s**(d/(d-2))
- step:  theta'_i = theta_i * lambda**-i, lambda = s**(2/(d-2))                the same schedule as `base`
- pair:  theta'_i = theta_i * s**(-2i/d), that is b' = b * s                   stops short of 1/s at the last pair
- power: theta'_i = b**(-(2i/d) * p), p = 1 + ln(s)/ln(b)                      the same schedule as `pair`

`docs/formulas.md` derives how they relate.
"""

from __future__ import annotations

import math

from ropewalk.errors import UsageError


def exact_exponent(rotary_dim: int) -> float:
    """d/(d-2): the exponent with which the last pair of a changed base is interpolated exactly by the factor."""
    if rotary_dim <= 2:
        raise UsageError(
            f"rotary_dim={rotary_dim} has one pair only, whose frequency is 1 whatever the base is",
            hint="NTK-aware scaling needs a rotary dimension of 4 or more: use linear",
        )
    return rotary_dim / (rotary_dim - 2)


def theta_from_factor(rope_theta: float, rotary_dim: int, factor: float) -> float:
    """base: rope_theta * s**(d/(d-2))."""
    return float(rope_theta * factor ** exact_exponent(rotary_dim))


def factor_from_step(rotary_dim: int, step: float) -> float:
    """The factor of a per-step lambda."""
    # d/2 - 1 steps lead from the first pair to the last, which the factor interpolates whole.
    return float(step ** (rotary_dim / (2 * exact_exponent(rotary_dim))))


def power_from_factor(rope_theta: float, factor: float, *, rotary_dim: int | None = None) -> float:
    """power: p = 1 + ln(s)/ln(rope_theta), times d/(d-2) in the second term where `rotary_dim` is given (exact form).

    The form "scale = log(L'/L) / log(rope_theta)" is p - 1.
    """
    exponent = 1.0 if rotary_dim is None else exact_exponent(rotary_dim)
    return 1.0 + exponent * math.log(factor) / math.log(rope_theta)


def theta_from_power(rope_theta: float, power: float) -> float:
    """The base that gives the same frequencies as an exponent form: rope_theta**p."""
    return float(rope_theta**power)
