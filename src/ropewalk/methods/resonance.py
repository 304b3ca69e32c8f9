"""Resonance: any other method's wavelengths rounded to whole tokens, so that a turn ends where it began."""

from __future__ import annotations

from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods.build import from_frequencies
from ropewalk.methods.registry import method, schedule
from ropewalk.schedule import FrequencySchedule


@method("resonance", paper="arXiv:2403.00071", faster=True, monotone=False, stops_pairs=True)
def resonance(
    geometry: RopeGeometry, *, factor: float, inner: str = "yarn", **parameters: Any
) -> FrequencySchedule:
    """wavelength' = round(wavelength) of the `inner` method's schedule; its attention factor is kept.

    Rounding down may turn a pair a little faster than before. Other parameters go to the inner method.

    Parameters:
        inner: the method whose wavelengths are rounded.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> (2 * np.pi / resonance(geometry, factor=4.0).inv_freq).round(6).tolist()
    [6.0, 101.0, 2513.0, 25133.0]
    """
    if inner == "resonance":
        raise UsageError("resonance of resonance changes nothing more", hint="give another inner method")
    made = schedule(inner, geometry, factor=factor, **parameters)
    turning = made.inv_freq[: geometry.num_rotating]
    rounded = np.zeros_like(turning)
    moving = turning > 0
    rounded[moving] = 2 * np.pi / np.round(2 * np.pi / turning[moving])
    return from_frequencies(
        "resonance",
        geometry,
        factor,
        rounded,
        attention_factor=made.attention_factor,
        parameters={"inner": inner} | dict(made.parameters),
        notes=made.notes,
    )
