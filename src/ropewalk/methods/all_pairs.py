"""Every pair alike: nothing at all, and Position Interpolation."""

from __future__ import annotations

from ropewalk.geometry import RopeGeometry
from ropewalk.methods.build import from_frequencies, rotating
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


@method("none", paper="-")
def none(geometry: RopeGeometry, *, factor: float) -> FrequencySchedule:
    """theta'_i = theta_i: the model's own frequencies at whatever length (m = 0).

    The control that every comparison carries: what the model does past its window when nobody helps.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> none(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return from_frequencies("none", geometry, factor, rotating(geometry), native={"type": "none"})


@method("linear", paper="arXiv:2306.15595")
def linear(geometry: RopeGeometry, *, factor: float) -> FrequencySchedule:
    """theta'_i = theta_i / s for every pair (Position Interpolation, eq. 4; m = 1).

    No angle goes past what training saw; neighbouring tokens come s times closer in angle, which costs most at
    short length.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> linear(geometry, factor=4.0).stretch.round(3).tolist()
    [4.0, 4.0, 4.0, 4.0]
    """
    # The one stock type with a zero tail takes a factor of its own, with exactly this meaning.
    native = {"type": "proportional" if geometry.proportional else "linear"}
    return from_frequencies("linear", geometry, factor, rotating(geometry) / factor, native=native)
