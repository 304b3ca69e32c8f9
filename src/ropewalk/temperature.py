"""Attention temperature: closed forms that sharpen or soften attention as the window grows. Orthogonal to schedules.

Each rule says what multiplies the query (and so the logits) at a position, or the logits of a head. Logits are
q.k / divisor before the softmax; the plain divisor is sqrt(head_dim).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ropewalk.errors import UsageError
from ropewalk.geometry import PerHead, PerPosition, check_factor


def constant(factor: float, *, value: float | None = None) -> float:
    """What multiplies cos and sin: 0.1 ln s + 1 (YaRN, 2309.00071 eq. 22), or `value`. Its square multiplies logits.

    >>> round(constant(8.0), 4)
    1.2079
    """
    if value is not None:
        return _positive("value", value)
    return 0.1 * math.log(check_factor(factor)) + 1.0


def log_n(position: ArrayLike, original_length: int) -> PerPosition:
    """Query at position p times max(1, ln(p+1)/ln L) (Su Jianlin; Qwen): 1 up to the window, growing beyond it.

    >>> log_n([0, 511, 512 * 512 - 1], 512).tolist()
    [1.0, 1.0, 2.0]
    """
    if original_length < 2:
        raise UsageError(
            f"original_length={original_length} has no logarithm to divide by", hint="use 2 or more"
        )
    # Position p sees p + 1 keys, itself among them.
    return np.maximum(1.0, np.log(_positions(position) + 1.0) / math.log(original_length))


def step_log(position: ArrayLike, *, period: int = 8192, coefficient: float = 0.1) -> PerPosition:
    """Query times ln(floor((p+1)/period) + 1) * coefficient + 1 (Llama-4 form, period 8192, coefficient 0.1).

    >>> step_log([0, 8190]).tolist()
    [1.0, 1.0]
    """
    _positive("period", period)
    return np.asarray(np.log(np.floor((_positions(position) + 1.0) / period) + 1.0) * coefficient + 1.0)


def entropy_matched(factor: float, logit_std: ArrayLike) -> PerHead:
    """Per head kappa_h = sqrt(1 + 2 ln s / sigma_h**2), sigma_h the measured standard deviation of its logits.

    With Gaussian logits over n keys the entropy is about ln n - sigma**2/2; multiplying the logits by kappa takes
    back the ln s that s times as many keys add. It can be folded into the query projection.

    >>> float(entropy_matched(math.e, [2.0 ** 0.5])[0].round(6))
    1.414214
    """
    sigma = np.asarray(logit_std, dtype=np.float64)
    if np.any(~np.isfinite(sigma)) or np.any(sigma <= 0):
        raise UsageError(
            "a head's logit standard deviation is not positive", hint="measure it on text, not on zeros"
        )
    # From (kappa * sigma)**2 / 2 = sigma**2 / 2 + ln s.
    return np.asarray(np.sqrt(1.0 + 2.0 * math.log(check_factor(factor)) / sigma**2))


@dataclass(frozen=True)
class Affine:
    """Logits a*S + m, one pair of coefficients per position."""

    scale: PerPosition
    shift: PerPosition


def scale_invariant(position: ArrayLike, *, tau: float = 10.0) -> Affine:
    """Logits a_t * S + m_t, a_t**2 = 2(ln(t/tau + 1) - 1/2 + 1), m_t = 1 - a_t**2. For training from scratch only.

    `t` is the distance between query and key.

    >>> scale_invariant([0]).scale.tolist(), scale_invariant([0]).shift.tolist()
    ([1.0], [0.0])
    """
    _positive("tau", tau)
    # Written out as published; the + 1/2 that remains makes the scale 1 at distance 0.
    squared = 2.0 * (np.log(_positions(position) / tau + 1.0) - 0.5 + 1.0)
    return Affine(scale=np.sqrt(squared), shift=1.0 - squared)


def divisor(head_dim: int, *, power: float = 0.5) -> float:
    """head_dim ** power: sqrt(d) is the plain divisor (power 1/2), d is muP's (power 1).

    >>> divisor(64)
    8.0
    """
    return float(_positive("head_dim", head_dim) ** power)


@dataclass(frozen=True)
class TemperatureRule:
    """One row of the table of temperatures."""

    name: str
    rule: str
    where: str
    paper: str
    needs_training: bool
    function: Callable[..., object]


RULES = {
    rule.name: rule
    for rule in (
        TemperatureRule(
            "constant", "0.1 ln s + 1, or a value", "cos and sin", "arXiv:2309.00071", False, constant
        ),
        TemperatureRule(
            "log-n", "max(1, ln(p+1)/ln L)", "query at position p", "kexue.fm/archives/8823", False, log_n
        ),
        TemperatureRule(
            "step-log",
            "ln(floor((p+1)/8192)+1)*0.1 + 1",
            "query at position p",
            "Llama 4, 2025",
            False,
            step_log,
        ),
        TemperatureRule(
            "entropy-matched", "sqrt(1 + 2 ln s / sigma_h^2)", "logits of head h", "-", False, entropy_matched
        ),
        TemperatureRule(
            "scale-invariant",
            "a_t S + m_t, a_t^2 = 2(ln(t/tau+1)+1/2)",
            "logits at distance t",
            "-",
            True,
            scale_invariant,
        ),
    )
}


def _positions(position: ArrayLike) -> PerPosition:
    values = np.asarray(position, dtype=np.float64)
    if np.any(~np.isfinite(values)) or np.any(values < 0):
        raise UsageError("a position is negative or not finite", hint="positions count tokens from 0")
    return values


def _positive(name: str, value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"{name}={value} is not a positive number", hint=f"give {name} above 0")
    return value
