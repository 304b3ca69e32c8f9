"""How exact a rotation angle is far out: float32 products against float64 ones.

Stock code multiplies a float32 position with a float32 frequency. The product has 24 bits, so at position p the angle
p * theta is only known to about p * theta * 2**-24 radians, and cos and sin are taken of that. In float64 the angle is
reduced before the cast, and the error stays at float32's own 6e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ropewalk.schedule import FrequencySchedule

POSITIONS = (128 * 1024, 1024**2, 10 * 1024**2)
_SAMPLES = 257
# pi to 60 digits: reducing an angle of 1e7 radians exactly needs more of it than a float holds.
_TURN = 2 * Fraction(314159265358979323846264338327950288419716939937510582097494, 10**59)


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

    def to_json(self) -> dict[str, Any]:
        """For the `angle_error` list of `extend` and `verify`."""
        return {
            "position": self.position,
            "stock_rad": self.stock,
            "stock_rounding_rad": self.stock_rounding,
            "float64_rad": self.float64,
        }


def angle_errors(schedule: FrequencySchedule, positions: Sequence[int] = POSITIONS) -> list[AngleError]:
    """The angle errors of a schedule around each of `positions`, against exact rational arithmetic."""
    return [_error_at(schedule, position) for position in positions]


def _error_at(schedule: FrequencySchedule, position: int) -> AngleError:
    first = max(position - _SAMPLES + 1, 0)
    places = range(first, position + 1, 16)
    stock = rounding = double = 0.0
    for theta in schedule.inv_freq[schedule.inv_freq > 0]:
        single = np.float32(theta)
        for place in places:
            exact = Fraction(float(theta)) * place
            product = np.float32(place) * single
            stock = max(stock, _distance(Fraction(float(product)), exact))
            rounding = max(rounding, _distance(Fraction(float(product)), Fraction(float(single)) * place))
            double = max(double, _distance(Fraction(float(place * float(theta))), exact))
    return AngleError(position, stock, rounding, double)


def _distance(one: Fraction, other: Fraction) -> float:
    """Radians between two angles on the circle."""
    apart = abs(one - other) % _TURN
    return float(min(apart, _TURN - apart))
