"""The forms of a method that a geometry asks for besides its defaults: one that reaches, one with fitted betas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.analysis import nominal_factor, suggested_betas
from ropewalk.errors import RopewalkError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import methods, schedule
from ropewalk.schedule import FrequencySchedule

# Methods whose ramp is set in rotations, with the names of its two ends, fast first.
_BY_ROTATIONS = {"yarn": ("beta_fast", "beta_slow"), "by-parts": ("beta", "alpha")}
_USUAL_FAST = 32.0
# A nominal factor closer to the wanted one than this is the method's default.
_SAME_FACTOR = 1e-3


@dataclass(frozen=True)
class Variant:
    """One schedule under its label; `kind` is default, reaching or fitted betas."""

    label: str
    kind: str
    schedule: FrequencySchedule


def default_of(name: str, geometry: RopeGeometry, factor: float, kept: Mapping[str, Any]) -> Variant:
    """The method with its defaults and with what the model's own configuration sets (`kept`)."""
    return Variant(name, "default", schedule(name, geometry, factor=factor, **kept))


def reaching(name: str, geometry: RopeGeometry, factor: float) -> list[Variant]:
    """The method at the nominal factor whose effective factor is the wanted one, where that is another."""
    if methods()[name].needs_training or factor <= 1.0:
        return []
    try:
        nominal = nominal_factor(name, geometry, factor)
    except RopewalkError:
        # It never gets there: the default is all there is of it.
        return []
    if abs(nominal - factor) <= _SAME_FACTOR * factor or nominal <= 1.0:
        return []
    return [Variant(f"{name}, reaching", "reaching", schedule(name, geometry, factor=nominal))]


def fitted(name: str, geometry: RopeGeometry, factor: float, kept: Mapping[str, Any]) -> list[Variant]:
    """A method by rotations with a ramp that follows the window, where the usual one was made for longer windows."""
    fast, slow = suggested_betas(geometry)
    # The default has these betas already.
    if name not in _BY_ROTATIONS or fast >= _USUAL_FAST or factor <= 1.0:
        return []
    fast_name, slow_name = _BY_ROTATIONS[name]
    betas: dict[str, Any] = {**kept, fast_name: fast, slow_name: slow}
    return [
        Variant(f"{name}, fitted betas", "fitted betas", schedule(name, geometry, factor=factor, **betas))
    ]
