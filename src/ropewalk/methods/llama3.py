"""Llama 3.1's rule: by wavelength against the original window, with a smooth band between two bounds."""

from __future__ import annotations

import numpy as np

from ropewalk.geometry import RopeGeometry
from ropewalk.methods.build import above, from_frequencies, positive, rotating
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


@method("llama3", paper="arXiv:2407.21783")
def llama3(
    geometry: RopeGeometry, *, factor: float, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0
) -> FrequencySchedule:
    """wavelength > L/low: theta/s; < L/high: theta; between: theta * ((1-k)/s + k), k = (r-low)/(high-low).

    r = L/wavelength are the rotations in the original window. Llama 3.1 ships low 1, high 4, s 8, L 8192. Equal bounds
    (Llama 4 Scout) leave no band between.

    Parameters:
        low_freq_factor: rotations below which a pair is interpolated fully.
        high_freq_factor: rotations above which a pair is left alone.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> llama3(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 3.927, 4.0, 4.0]
    """
    positive("llama3: low_freq_factor", low_freq_factor)
    above("llama3: high_freq_factor", high_freq_factor, "low_freq_factor", low_freq_factor, or_equal=True)
    turns = geometry.rotations[: geometry.num_rotating]
    width = high_freq_factor - low_freq_factor
    if width > 0.0:
        smooth = np.clip((turns - low_freq_factor) / width, 0.0, 1.0)
    else:
        smooth = (turns >= high_freq_factor).astype(np.float64)
    base = rotating(geometry)
    parameters = {"low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor}
    return from_frequencies(
        "llama3",
        geometry,
        factor,
        (1.0 - smooth) * base / factor + smooth * base,
        parameters=parameters,
        native={"type": "llama3"} | parameters,
    )
