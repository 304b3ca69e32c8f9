"""Profiles that rise inside the band between the pairs that turn often and those that never complete a turn."""

from __future__ import annotations

import numpy as np

from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.methods.build import above, from_profile, positive, temperature
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


def _band(geometry: RopeGeometry, fast: float, slow: float) -> tuple[PerTurningPair, int]:
    """(q, n): q_i = clip(i-l, 0, n) with l the last pair that turns more than `fast` times, h the first that turns
    fewer than `slow`, n = h - l. Where no pair is that fast l is -1, where none is that slow h is one past the end."""
    positive("slow", slow)
    above("fast", fast, "slow", slow)
    turns = geometry.rotations[: geometry.num_rotating]
    # Rotations fall with the index, so that counting pairs is finding one.
    last_fast = int(np.sum(turns > fast)) - 1
    first_slow = int(np.sum(turns >= slow))
    # At least 1: a pair that turns more than `fast` times turns `slow` times, too.
    width = first_slow - last_fast
    index = np.arange(geometry.num_rotating, dtype=np.float64)
    return np.clip(index - last_fast, 0.0, float(width)), width


def _in_band(
    name: str, geometry: RopeGeometry, factor: float, profile: PerTurningPair, fast: float, slow: float
) -> FrequencySchedule:
    return from_profile(
        name,
        geometry,
        factor,
        profile,
        attention_factor=temperature(factor),
        parameters={"fast": fast, "slow": slow},
    )


@method("mrrope-uni", paper="arXiv:2601.22181")
def mrrope_uni(
    geometry: RopeGeometry, *, factor: float, fast: float = 32.0, slow: float = 1.0
) -> FrequencySchedule:
    """m = q/n inside the band from the last pair with more than 32 rotations to the first with fewer than 1.

    q = clip(i-l, 0, n), n = h-l; attention factor as yarn's. Where no pair turns that often, the band begins before
    the first pair, which is then slowed as well.

    Parameters:
        fast: turns in the original window above which a pair is left alone.
        slow: turns below which a pair is interpolated fully.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> mrrope_uni(geometry, factor=4.0).stretch.round(3).tolist()
    [1.587, 2.52, 4.0, 4.0]
    """
    place, width = _band(geometry, fast, slow)
    return _in_band("mrrope-uni", geometry, factor, place / width, fast, slow)


@method("mrrope-pro", paper="arXiv:2601.22181")
def mrrope_pro(
    geometry: RopeGeometry, *, factor: float, fast: float = 32.0, slow: float = 1.0
) -> FrequencySchedule:
    """m = q(q+1)/(n(n+1)) inside the band of `mrrope-uni`: the stretch grows progressively towards the slow pairs.

    q = clip(i-l, 0, n), n = h-l; attention factor as yarn's.

    Parameters:
        fast: turns in the original window above which a pair is left alone.
        slow: turns below which a pair is interpolated fully.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> mrrope_pro(geometry, factor=4.0).stretch.round(3).tolist()
    [1.26, 2.0, 4.0, 4.0]
    """
    place, width = _band(geometry, fast, slow)
    return _in_band("mrrope-pro", geometry, factor, place * (place + 1) / (width * (width + 1)), fast, slow)


@method("tailspline", paper="unreviewed, 2026", contrib=True)
def tailspline(
    geometry: RopeGeometry, *, factor: float, fast: float = 32.0, slow: float = 1.0
) -> FrequencySchedule:
    """m = q(3n^2 + 3n + 1 - q^2) / (n(n+1)(2n+1)) inside the band of `mrrope-uni`.

    q = clip(i-l, 0, n), n = h-l; attention factor as yarn's. Contributed and unreviewed.

    Parameters:
        fast: turns in the original window above which a pair is left alone.
        slow: turns below which a pair is interpolated fully.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> tailspline(geometry, factor=4.0).stretch.round(3).tolist()
    [1.811, 2.972, 4.0, 4.0]
    """
    place, width = _band(geometry, fast, slow)
    top = place * (3 * width**2 + 3 * width + 1 - place**2)
    profile = top / (width * (width + 1) * (2 * width + 1))
    return _in_band("tailspline", geometry, factor, profile, fast, slow)
