"""How exact a rotation angle is far out: float32 products against float64 ones.

Stock code multiplies a float32 position with a float32 frequency. The product has 24 bits, so at position p the angle
p * theta is only known to about p * theta * 2**-24 radians, and cos and sin are taken of that. In float64 the angle is
reduced before the cast, and the error stays at float32's own 6e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length

POSITIONS = (128 * 1024, 1024**2, 10 * 1024**2)
_SAMPLES = 256
# Veltkamp's constant for a float64: splits a number into two halves whose products are exact.
_SPLIT = 2.0**27 + 1.0


@dataclass(frozen=True)
class AngleError:
    """Largest angle error near `position`, in radians, over all pairs.

    `stock` is float32 throughout. `stock_rounding` is the part of it that differs from one position to the next,
    which breaks relative positions; the rest is a frequency that is off by a constant. `float64` is what
    `exact_positions` leaves.
    """

    position: int
    stock: float
    stock_rounding: float
    float64: float

    def __str__(self) -> str:
        return (
            f"{format_length(self.position)}: float32 {self.stock:.2g} rad ({self.stock_rounding:.2g} of it from "
            f"rounding positions), float64 {self.float64:.1g} rad"
        )

    def to_json(self) -> dict[str, Any]:
        """For the `angle_error` list of `extend` and `verify`."""
        return {
            "position": self.position,
            "stock_rad": self.stock,
            "stock_rounding_rad": self.stock_rounding,
            "float64_rad": self.float64,
        }


def angle_errors(schedule: FrequencySchedule, positions: Sequence[int] = POSITIONS) -> list[AngleError]:
    """The largest angle errors of a schedule over the 256 positions up to each of `positions`."""
    return [_error_at(schedule, position) for position in positions]


def _error_at(schedule: FrequencySchedule, position: int) -> AngleError:
    theta = schedule.inv_freq[None, :]
    places = np.arange(max(position - _SAMPLES + 1, 0), position + 1, dtype=np.float64)[:, None]
    single = theta.astype(np.float32)
    product = (places.astype(np.float32) * single).astype(np.float64)
    # Beside errors of 1e-3 and more the float64 products stand for the exact ones.
    stock = _on_circle(product - places * theta)
    rounding = _on_circle(product - places * single.astype(np.float64))
    return AngleError(position, stock, rounding, float(np.abs(_lost(places, theta)).max()))


def _on_circle(difference: FloatArray) -> float:
    """The largest distance of two angles on the circle, in radians."""
    apart = np.abs(difference) % (2 * np.pi)
    return float(np.minimum(apart, 2 * np.pi - apart).max())


def _lost(one: FloatArray, other: FloatArray) -> FloatArray:
    """What a float64 product loses, exactly (Dekker's two-product)."""
    product = one * other
    high, low = _halves(one)
    other_high, other_low = _halves(other)
    lost = ((high * other_high - product) + high * other_low + low * other_high) + low * other_low
    return np.asarray(lost, dtype=np.float64)


def _halves(number: FloatArray) -> tuple[FloatArray, FloatArray]:
    scaled = _SPLIT * number
    high = scaled - (scaled - number)
    return high, number - high
