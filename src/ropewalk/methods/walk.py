"""A band fitted by gradient to small models of several geometries at once (docs/log.md, 2026-11-22)."""

from __future__ import annotations

import math

import numpy as np

from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.methods.build import above, from_profile, positive
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


def band_profile(
    geometry: RopeGeometry, fast: float, slow: float, power: float = 1.0, plateau: float = 1.0
) -> PerTurningPair:
    """m_i = plateau * clip(ln(fast / r_i) / ln(fast / slow), 0, 1) ** power, r_i the rotations in the window.

    Linear in the pair index between the pairs that turn `fast` and `slow` times, bent by `power`.
    """
    turns = geometry.rotations[: geometry.num_rotating]
    place = np.clip(np.log(fast / turns) / math.log(fast / slow), 0.0, 1.0)
    return np.asarray(plateau * place**power, dtype=np.float64)


@method("walk", paper="Ropewalk, docs/log.md")
def walk(
    geometry: RopeGeometry,
    *,
    factor: float,
    fast: float = 6.0,
    slow: float = 0.65,
    power: float = 1.2,
    heat: float = 0.1,
) -> FrequencySchedule:
    """m = (ln(6/r) / ln(6/0.65)) ** 1.2 between 6 and 0.65 rotations r in the window, 0 above, 1 below.

    The attention factor is 1 + 0.1 ln s. The ends were fitted by gradient to four small models together (windows of
    128 and 256, head_dim 32 to 128, rope_theta 1e4 to 5e5, at 8 times), power and c chosen among a few on the same
    models at 4, 8 and 16 times, and all measured on others.

    Parameters:
        fast: turns in the original window above which a pair is left alone.
        slow: turns below which a pair is interpolated fully.
        power: how the profile bends inside the band; 1 is linear in the pair index.
        heat: c of the attention factor 1 + c ln s.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> walk(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 2.878, 4.0, 4.0]
    """
    positive("slow", slow)
    positive("power", power)
    above("fast", fast, "slow", slow)
    return from_profile(
        "walk",
        geometry,
        factor,
        band_profile(geometry, fast, slow, power),
        attention_factor=1.0 + heat * math.log(factor),
        parameters={"fast": fast, "slow": slow, "power": power, "heat": heat},
    )
