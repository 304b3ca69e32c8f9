"""The methods side by side at one target: what each does to the geometry, and who can carry it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.analysis import (
    effective_factor,
    kernel_distortion,
    neighbour_resolution,
    nominal_factor,
    out_of_bound,
    suggested_betas,
)
from ropewalk.errors import RopewalkError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import methods, schedule
from ropewalk.planning.carriage import Carriage, carriage
from ropewalk.schedule import FrequencySchedule

_BY_ROTATIONS = {"yarn": ("beta_fast", "beta_slow"), "by-parts": ("beta", "alpha")}


@dataclass(frozen=True)
class Option:
    """One row: a schedule and its figures."""

    label: str
    schedule: FrequencySchedule
    out_of_bound_pairs: int
    effective_factor: float
    distortion: float
    resolution: float
    carried: dict[str, Carriage]
    needs_training: bool
    contrib: bool

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        effective = self.effective_factor
        return {
            "method": self.schedule.method,
            "label": self.label,
            "factor": self.schedule.factor,
            "parameters": {
                key: value for key, value in self.schedule.parameters.items() if not isinstance(value, list)
            },
            "attention_factor": self.schedule.attention_factor,
            "out_of_bound_pairs": self.out_of_bound_pairs,
            "effective_factor": effective if math.isfinite(effective) else None,
            "distortion": self.distortion,
            "neighbour_resolution": self.resolution,
            "native": {runtime: way.way == "native" and way.exact for runtime, way in self.carried.items()},
            "carried": {
                runtime: {"way": way.way, "exact": way.exact, "note": way.note}
                for runtime, way in self.carried.items()
            },
            "needs_training": self.needs_training,
            "contrib": self.contrib,
        }


def options_for(
    geometry: RopeGeometry, target_length: int, *, kept: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Option]:
    """Every registered method with its defaults, then the variants that this geometry asks for: NTK at the nominal
    factor that really reaches the target, and by-rotations methods with betas that fit a small window.

    `kept` holds, by method, parameters that the model's own configuration sets (a YaRN model's mscales).
    """
    kept = kept or {}
    factor = target_length / geometry.original_length
    made = []
    for name in methods():
        try:
            made.append(
                option(name, schedule(name, geometry, factor=factor, **kept.get(name, {})), target_length)
            )
        except RopewalkError:
            # A geometry of one pair has no changed base: such a method is no option here.
            continue
    return made + _fitted(geometry, factor, target_length, kept)


def _fitted(
    geometry: RopeGeometry, factor: float, target_length: int, kept: Mapping[str, Mapping[str, Any]]
) -> list[Option]:
    extra = []
    if geometry.num_rotating > 1 and factor > 1.0:
        nominal = nominal_factor("ntk", geometry, factor)
        if nominal > factor * (1 + 1e-6):
            extra.append(option("ntk, reaching", schedule("ntk", geometry, factor=nominal), target_length))
    fast, slow = suggested_betas(geometry)
    if fast < 32.0 and factor > 1.0:
        for name, (fast_name, slow_name) in _BY_ROTATIONS.items():
            betas: dict[str, Any] = {**kept.get(name, {}), fast_name: fast, slow_name: slow}
            fitted = schedule(name, geometry, factor=factor, **betas)
            extra.append(option(f"{name}, fitted betas", fitted, target_length))
    return extra


def option(label: str, made: FrequencySchedule, target_length: int) -> Option:
    """The figures of one schedule at a target length."""
    known = methods()[made.method]
    return Option(
        label=label,
        schedule=made,
        out_of_bound_pairs=int(out_of_bound(made, target_length).sum()),
        effective_factor=effective_factor(made),
        distortion=kernel_distortion(made),
        resolution=neighbour_resolution(made),
        carried=carriage(made),
        needs_training=known.needs_training,
        contrib=known.contrib,
    )
