"""The methods side by side at one target: what each does to the geometry, and who can carry it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ropewalk.analysis import effective_factor, kernel_distortion, neighbour_resolution, out_of_bound
from ropewalk.errors import RopewalkError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import methods
from ropewalk.planning.variants import default_of, fitted, reaching
from ropewalk.schedule import FrequencySchedule


class Carrying(Protocol):
    """What one program makes of a schedule, as the runtimes room answers it."""

    @property
    def exact(self) -> bool:
        """Whether the program is known to compute this very schedule."""

    @property
    def native(self) -> bool:
        """Whether it does so by a type of its own."""

    def to_json(self) -> dict[str, Any]:
        """The whole answer."""


# Asks the runtimes about one schedule; this room comes before theirs and is handed the question.
Ask = Callable[[FrequencySchedule], Mapping[str, Carrying]]


@dataclass(frozen=True)
class Option:
    """One row: a schedule and its figures."""

    label: str
    schedule: FrequencySchedule
    out_of_bound_pairs: int
    effective_factor: float
    distortion: float
    resolution: float
    carried: Mapping[str, Carrying]
    needs_training: bool
    contrib: bool

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        effective = self.effective_factor
        return {
            "method": self.schedule.method,
            "label": self.label,
            "factor": self.schedule.factor,
            "parameters": self.schedule.settings,
            "attention_factor": self.schedule.attention_factor,
            "out_of_bound_pairs": self.out_of_bound_pairs,
            "effective_factor": effective if math.isfinite(effective) else None,
            "distortion": self.distortion,
            "neighbour_resolution": self.resolution,
            "native": {runtime: found.native for runtime, found in self.carried.items()},
            "carried": {runtime: found.to_json() for runtime, found in self.carried.items()},
            "needs_training": self.needs_training,
            "contrib": self.contrib,
        }


def options_for(
    geometry: RopeGeometry,
    target_length: int,
    *,
    kept: Mapping[str, Mapping[str, Any]] | None = None,
    ask: Ask | None = None,
) -> list[Option]:
    """Every registered method with its defaults, then the variants that this geometry asks for: NTK at the nominal
    factor that really reaches the target, and by-rotations methods with betas that fit a small window.

    `kept` holds, by method, parameters that the model's own configuration sets (a YaRN model's mscales). `ask` says
    what each runtime makes of a schedule; without it nothing is said about runtimes.
    """
    kept = kept or {}
    factor = target_length / geometry.original_length
    found = []
    for name in methods():
        try:
            found.append(default_of(name, geometry, factor, kept.get(name, {})))
        except RopewalkError:
            # A geometry of one pair has no changed base: such a method is no option here.
            continue
    if geometry.num_rotating > 1:
        found += reaching("ntk", geometry, factor)
    for name in methods():
        found += fitted(name, geometry, factor, kept.get(name, {}))
    return [option(variant.label, variant.schedule, target_length, ask) for variant in found]


def option(label: str, made: FrequencySchedule, target_length: int, ask: Ask | None = None) -> Option:
    """The figures of one schedule at a target length; a schedule read from a file may name no method of ours."""
    known = methods().get(made.method)
    return Option(
        label=label,
        schedule=made,
        # At the target that was asked for, which the schedule may be made to exceed.
        out_of_bound_pairs=int(out_of_bound(made, target_length).sum()),
        effective_factor=effective_factor(made),
        distortion=kernel_distortion(made),
        resolution=neighbour_resolution(made),
        carried={} if ask is None else ask(made),
        needs_training=known is not None and known.needs_training,
        contrib=known is not None and known.contrib,
    )
