"""Reading frequencies back from the live modules after a write, so that an ignored schedule can never pass unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError
from ropewalk.geometry import FloatArray
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.facts import ModelFacts
from ropewalk.models.live.direct import belongs, text_config
from ropewalk.models.live.rotary import Spectrum, rotary_modules, spectra, spectrum
from ropewalk.models.live.rotary import labels_of as labels
from ropewalk.models.live.tables import table_modules, table_of
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.schedule import FrequencySchedule

# Stock code computes frequencies in float32, powers included; a wrong method differs by far more.
TOLERANCE = 1e-5
_FLOOR = 1e-12


@dataclass(frozen=True)
class Reading:
    """One rotary module for one layer type: `state` is scaled or untouched, `deviation` relative to what it must be."""

    path: str
    layer_type: str
    state: str
    deviation: float
    attention_factor: float
    source: str


@dataclass(frozen=True)
class Untouched:
    """A model's own rotary values before any schedule, by module path and layer type, with the base of each module."""

    spectra: Mapping[tuple[str, str], Spectrum]
    bases: Mapping[str, float | None]

    @classmethod
    def of(cls, model: Any) -> Untouched:
        """Read them off a model, or off its twin."""
        found = {(each.path, each.label): each for each in spectra(model)}
        return cls(found, {path: _own_base(module) for path, module in rotary_modules(model).items()})


def read_back(
    live: Any,
    facts: ModelFacts,
    schedules: Mapping[str, FrequencySchedule],
    untouched: Untouched,
) -> tuple[Reading, ...]:
    """Compare every rotary module with the schedule of its layer type, or with what it was where it has none.

    Raises RopewalkError for a text module that computes anything else,
    and where no module at all took the schedule.
    """
    text = text_config(live, facts)
    readings: list[Reading] = []
    for path, module in rotary_modules(live).items():
        for label in labels(module):
            schedule = schedules.get(label or DEFAULT) if belongs(module, text) else None
            before = untouched.spectra[path, label]
            if schedule is None:
                found = spectrum(path, module, label)
                readings.append(_reading(found, "untouched", [(before.inv_freq, before.attention_factor)]))
            else:
                readings += _scaled(path, module, label, schedule, facts, before, untouched.bases[path])
    if not any(reading.state == "scaled" for reading in readings):
        names = ", ".join(sorted(schedules))
        raise RopewalkError(
            f"no rotary module of {type(live).__name__} serves {names}: nothing would be stretched",
            hint="if all its layers slide, pass layers='all' (--layers all); otherwise please report the model type",
        )
    return tuple(readings)


def _scaled(
    path: str,
    module: Any,
    label: str,
    schedule: FrequencySchedule,
    facts: ModelFacts,
    before: Spectrum,
    base: float | None,
) -> Iterator[Reading]:
    length = schedule.geometry.original_length
    # Past the window, where the long one of two sets is in force.
    found = spectrum(path, module, label, length + 2)
    wanted = [(schedule.inv_freq, schedule.attention_factor)]
    if base is not None and not label and not np.isclose(base, facts.rope.parameters["rope_theta"]):
        wanted += _on_base(schedule, base, before)
    yield _reading(found, "scaled", wanted)
    if schedule.short_inv_freq is not None:
        near = spectrum(path, module, label, 1)
        yield _reading(near, "scaled", [(schedule.short_inv_freq, schedule.attention_factor)])


def _own_base(module: Any) -> float | None:
    """The base of a module without layer types; Granite's sliding variants have a base per layer."""
    parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    value = parameters.get("rope_theta")
    return float(value) if isinstance(value, int | float) else None


def _on_base(schedule: FrequencySchedule, base: float, before: Spectrum) -> list[tuple[FloatArray, float]]:
    """What a schedule may mean in a module on another base: the same method there, the same stretch, or nothing."""
    geometry = schedule.geometry.with_theta(base)
    same_stretch = geometry.inv_freq / np.where(schedule.stretch > 0, schedule.stretch, 1.0)
    options = [(same_stretch, schedule.attention_factor), (before.inv_freq, before.attention_factor)]
    try:
        made = make_schedule(schedule.method, geometry, factor=schedule.factor, **dict(schedule.parameters))
    except RopewalkError:
        return options
    return [*options, (made.inv_freq, made.attention_factor)]


def _reading(found: Spectrum, state: str, wanted: list[tuple[FloatArray, float]]) -> Reading:
    deviation = min(_deviation(found, inv_freq, factor) for inv_freq, factor in wanted)
    if deviation > TOLERANCE:
        where = f"{found.path} ({found.label})" if found.label else found.path
        raise RopewalkError(
            f"{where} does not compute the schedule: frequencies or attention factor are off by {deviation:.2g} "
            "(relative) after the write",
            hint="this model type overrides its rotary values; please report it",
        )
    return Reading(found.path, found.label, state, deviation, found.attention_factor, found.source)


def _deviation(found: Spectrum, inv_freq: FloatArray, attention_factor: float) -> float:
    if found.inv_freq.shape != inv_freq.shape:
        return float("inf")
    # Angles come back in (-pi, pi]; a frequency above pi would need a base below one.
    error = np.abs(found.inv_freq - inv_freq) / (inv_freq + _FLOOR / TOLERANCE)
    return float(max(error.max(initial=0.0), abs(found.attention_factor / attention_factor - 1.0)))


def read_back_tables(live: Any, schedule: FrequencySchedule) -> tuple[Reading, ...]:
    """The same for models that rotate by tables: row 1 holds the frequencies themselves."""
    readings = []
    for path, module in table_modules(live):
        row = table_of(module)[1].detach().double().cpu().numpy()
        sine, cosine = np.split(row, 2)
        scale = float(np.median(np.hypot(sine, cosine)))
        found = Spectrum(path, "", np.arctan2(sine, cosine), scale, "table")
        readings.append(_reading(found, "scaled", [(schedule.inv_freq, schedule.attention_factor)]))
    return tuple(readings)
