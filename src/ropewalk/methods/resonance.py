"""Resonance: any other method's wavelengths rounded to whole tokens, so that a turn ends where it began."""

from __future__ import annotations

from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.methods.build import from_frequencies
from ropewalk.methods.registry import method, schedule
from ropewalk.schedule import FrequencySchedule


@method("resonance", paper="arXiv:2403.00071", faster=True, monotone=False, stops_pairs=True)
def resonance(
    geometry: RopeGeometry, *, factor: float, inner: str = "yarn", **parameters: Any
) -> FrequencySchedule:
    """wavelength' = round(wavelength) of the `inner` method's schedule; its attention factor is kept.

    Rounding down may turn a pair a little faster than before. Of a method with two sets both are rounded. Other
    parameters go to the inner method.

    Parameters:
        inner: the method whose wavelengths are rounded.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> (2 * np.pi / resonance(geometry, factor=4.0).inv_freq).round(6).tolist()
    [6.0, 101.0, 2513.0, 25133.0]
    """
    if inner == "resonance":
        raise UsageError("resonance of resonance changes nothing more", hint="give another inner method")
    made = schedule(inner, geometry, factor=factor, **parameters)
    turning = geometry.num_rotating
    short = made.short_inv_freq
    return from_frequencies(
        "resonance",
        geometry,
        factor,
        _rounded(made.inv_freq[:turning]),
        short_inv_freq=None if short is None else _rounded(short[:turning]),
        attention_factor=made.attention_factor,
        parameters={"inner": inner} | dict(made.parameters),
        notes=made.notes,
    )


def _rounded(inv_freq: PerTurningPair) -> PerTurningPair:
    rounded = np.zeros_like(inv_freq)
    # A pair that the inner method stopped has no wavelength, and stays as it is.
    moving = inv_freq > 0
    rounded[moving] = 2 * np.pi / np.round(2 * np.pi / inv_freq[moving])
    return rounded
