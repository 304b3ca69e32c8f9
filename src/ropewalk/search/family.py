"""Monotone stretch profiles over the factor: m_i(s) with theta'_i = theta_i * s ** -m_i(s), and their temperature.

    u = ln s / ln S                              how far up the ladder, S its highest factor
    m_i(s) = (1 - u) low_i + u top_i             both non-decreasing in i and never below 0, so every blend is
    attention factor = 1 + ln s * ((1 - u) cool + u heat)

At s = 1 that is the model itself, whatever the numbers: 1 ** -m = 1 and ln 1 = 0. With one rung, u is 1 throughout.
Arithmetic on float64 numpy arrays; nothing here knows of a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.schedule import FrequencySchedule

METHOD = "tuned"
# Interpolation beyond 1/s serves a band that ends below one rotation; far beyond it no published form goes.
HIGHEST = 1.5
# Attention factors outside of these ruin a model long before a search could learn anything there.
COLDEST, HOTTEST = -0.2, 0.5


@dataclass(frozen=True)
class Family:
    """The numbers above, for one geometry. `highest` is S."""

    geometry: RopeGeometry
    highest: float
    low: FloatArray
    top: FloatArray
    cool: float
    heat: float

    @classmethod
    def through(cls, schedules: Sequence[FrequencySchedule]) -> Family:
        """The family that starts at given schedules: exact at the lowest and the highest factor, monotone between."""
        ordered = sorted(schedules, key=lambda item: item.factor)
        first, last = ordered[0], ordered[-1]
        geometry, highest = last.geometry, last.factor
        count = geometry.num_rotating
        top = monotone(last.profile[:count])
        heat = temperature_of(last)
        if len(ordered) == 1:
            return cls(geometry, highest, top, top, heat, heat)
        share = math.log(first.factor) / math.log(highest)
        # The other end of the line on which the lowest rung lies at `share`.
        low = monotone((first.profile[:count] - share * top) / (1 - share))
        cool = (temperature_of(first) - share * heat) / (1 - share)
        return cls(geometry, highest, low, top, cool, heat)

    def share(self, factor: float) -> float:
        """u of a factor."""
        return math.log(factor) / math.log(self.highest)

    def profile(self, factor: float) -> FloatArray:
        """m_i(s) of the rotating pairs."""
        share = self.share(factor)
        return np.asarray((1 - share) * self.low + share * self.top, dtype=np.float64)

    def attention_factor(self, factor: float) -> float:
        """What multiplies cos and sin."""
        share = self.share(factor)
        return 1.0 + math.log(factor) * ((1 - share) * self.cool + share * self.heat)

    def schedule(self, factor: float, parameters: Mapping[str, Any] | None = None) -> FrequencySchedule:
        """The schedule at a factor; at 1 the model's own frequencies, bit for bit."""
        return tuned_schedule(
            self.geometry, factor, self.profile(factor), self.attention_factor(factor), parameters
        )

    def reading(self, factor: float) -> Any:
        """What a reader reads the model under at a factor."""
        return self.schedule(factor)

    def moved(self, low: FloatArray, top: FloatArray, cool: float, heat: float) -> Family:
        """The family with other numbers, brought back to where profiles are monotone and factors sane."""
        return replace(
            self,
            low=monotone(low),
            top=monotone(top),
            cool=float(np.clip(cool, COLDEST, HOTTEST)),
            heat=float(np.clip(heat, COLDEST, HOTTEST)),
        )

    @property
    def extra(self) -> FloatArray:
        """Numbers of its own that a kind of family adds to these, as one vector."""
        return np.zeros(0)

    @property
    def extra_rates(self) -> FloatArray:
        """By how much each of them may move in a step at the full rate."""
        return np.zeros(0)

    def with_extra(self, values: FloatArray) -> Family:
        """The family with others of them."""
        return self

    def to_json(self) -> dict[str, Any]:
        """For a ladder file and for going on after an interruption."""
        return {
            "highest": self.highest,
            "low": self.low.tolist(),
            "top": self.top.tolist(),
            "cool": self.cool,
            "heat": self.heat,
        }

    @classmethod
    def from_json(cls, geometry: RopeGeometry, document: Mapping[str, Any]) -> Family:
        """What `to_json` wrote."""
        return cls(
            geometry,
            float(document["highest"]),
            np.asarray(document["low"], dtype=np.float64),
            np.asarray(document["top"], dtype=np.float64),
            float(document["cool"]),
            float(document["heat"]),
        )


def tuned_schedule(
    geometry: RopeGeometry,
    factor: float,
    profile: FloatArray,
    attention_factor: float,
    parameters: Mapping[str, Any] | None = None,
) -> FrequencySchedule:
    """A schedule from a profile over the rotating pairs; stock software gets it by the universal carrier."""
    rotating = geometry.inv_freq[: geometry.num_rotating]
    # At 1 not even the rounding of a product: the model's own bits.
    inv_freq = geometry.padded(rotating * factor**-profile) if factor != 1.0 else geometry.inv_freq
    return FrequencySchedule(
        method=METHOD,
        geometry=geometry,
        factor=factor,
        inv_freq=inv_freq,
        attention_factor=attention_factor,
        parameters=dict(parameters or {}),
    )


def temperature_of(schedule: FrequencySchedule) -> float:
    """c of a schedule whose attention factor is 1 + c ln s."""
    return (schedule.attention_factor - 1.0) / math.log(schedule.factor) if schedule.factor > 1.0 else 0.0


def monotone(values: FloatArray) -> FloatArray:
    """The nearest non-decreasing sequence in least squares (neighbours that fall are pooled), within 0 .. HIGHEST.

    >>> monotone(np.array([0.0, 0.4, 0.2, 1.0])).round(3).tolist()
    [0.0, 0.3, 0.3, 1.0]
    """
    means: list[float] = []
    sizes: list[int] = []
    # Not to 0 .. HIGHEST yet: a value beyond still weighs in its pool, only no wild one outweighs it.
    for value in np.clip(np.asarray(values, dtype=np.float64), -HIGHEST, 2 * HIGHEST):
        means.append(float(value))
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            size = sizes[-2] + sizes[-1]
            mean = (means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size
            means[-2:], sizes[-2:] = [mean], [size]
    return np.asarray(np.clip(np.repeat(means, sizes), 0.0, HIGHEST), dtype=np.float64)
