"""The effective factor: how far a schedule really reaches before a pair sees angles that training never did."""

from __future__ import annotations

import math
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.geometry import RopeGeometry, check_factor
from ropewalk.methods import schedule
from ropewalk.schedule import FrequencySchedule

_LARGEST = 1e6


def effective_factor(made: FrequencySchedule) -> float:
    """min over pairs with r_i < 1 of theta_i/theta'_i: the stretch at which the first pair leaves what it saw.

    `linear` reaches exactly its factor; NTK-aware at nominal 8 (d = 128, L = 4096) reaches 4.6. Infinite where every
    pair completes a turn in training, since then no angle is new.
    """
    limited = made.geometry.rotations[: made.geometry.num_rotating] < 1.0
    if not limited.any():
        return math.inf
    return float(made.stretch[: made.geometry.num_rotating][limited].min())


def nominal_factor(name: str, geometry: RopeGeometry, factor: float, **parameters: Any) -> float:
    """The smallest nominal factor at which `name` pushes no pair further out of bound than `linear` does at `factor`.

    `linear` pushes none, so this is the nominal factor whose effective factor is `factor`; found by bisection to a
    relative 1e-9. A method that never gets there (its schedule does not follow the factor) raises RopewalkError.
    """
    wanted = check_factor(factor)

    def reaches(nominal: float) -> bool:
        made = schedule(name, geometry, factor=nominal, **parameters)
        # linear's own ratio theta / (theta / s) may miss s by a rounding.
        return effective_factor(made) >= wanted * (1.0 - 1e-12)

    if reaches(1.0):
        return 1.0
    low, high = 1.0, wanted
    while not reaches(high):
        low, high = high, high * 2.0
        if high > _LARGEST:
            raise RopewalkError(
                f"method {name!r} never keeps every pair inside its seen angles at factor {wanted:g}",
                hint="its slow pairs do not follow the factor: use another method, or train",
            )
    while high - low > 1e-9 * high:
        # Halfway on a logarithmic scale, as the tolerance is relative.
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
