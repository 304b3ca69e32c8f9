"""What the method files share: turning a profile or frequencies over the rotating pairs into a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.schedule import FrequencySchedule

# The other stock types make a vector without the tail, on whose shape the first forward fails.
_KNOWS_ZERO_TAIL = ("none", "theta", "proportional")


def rotating(geometry: RopeGeometry) -> PerTurningPair:
    """theta_i of the pairs that turn; a proportional geometry's zero tail is left out."""
    return geometry.inv_freq[: geometry.num_rotating]


def from_profile(
    name: str, geometry: RopeGeometry, factor: float, profile: PerTurningPair, **rest: Any
) -> FrequencySchedule:
    """theta'_i = theta_i * factor ** -m_i over the rotating pairs."""
    return from_frequencies(name, geometry, factor, rotating(geometry) * factor**-profile, **rest)


def from_frequencies(
    name: str,
    geometry: RopeGeometry,
    factor: float,
    inv_freq: PerTurningPair,
    *,
    native: Mapping[str, Any] | None = None,
    short_inv_freq: PerTurningPair | None = None,
    **rest: Any,
) -> FrequencySchedule:
    """A schedule from frequencies over the rotating pairs; a zero tail keeps only the native types that know of one.

    `rest` is the schedule's own: its attention_factor, parameters, notes.
    """
    if geometry.proportional and native is not None and native["type"] not in _KNOWS_ZERO_TAIL:
        native = None
    return FrequencySchedule(
        method=name,
        geometry=geometry,
        factor=factor,
        inv_freq=geometry.padded(inv_freq),
        short_inv_freq=None if short_inv_freq is None else geometry.padded(short_inv_freq),
        native=native,
        **rest,
    )


def temperature(factor: float, mscale: float = 1.0) -> float:
    """f(m) = 0.1 m ln s + 1 (YaRN, eq. 22; m = 1), and 1 where nothing is stretched."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def positive(name: str, value: float) -> float:
    """A parameter that must lie above zero."""
    if value <= 0:
        raise UsageError(f"{name}={value:g} is not positive", hint=f"give {name} above 0")
    return value


def above(name: str, value: float, bound_name: str, bound: float, *, or_equal: bool = False) -> None:
    """A parameter that must lie above another one, or may equal it."""
    if value < bound or (value == bound and not or_equal):
        sign = ">=" if or_equal else ">"
        raise UsageError(
            f"{name}={value:g} does not lie above {bound_name}={bound:g}",
            hint=f"give {name} {sign} {bound_name}",
        )


def share_of(name: str, value: float) -> float:
    """A parameter that is a share."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{name}={value:g} is not a share", hint=f"give {name} in [0, 1]")
    return value
