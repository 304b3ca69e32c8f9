"""Tables of layers fitted: a profile and a temperature for each layer, for queries past the original window.

    theta'_i of layer l:  theta_i * s ** -(m_i + m_il)           m + m_l non-decreasing in i, for every layer
    logits of layer l:    ((1 + heat ln s) * exp(heat_l)) ** 2

m and `heat` are shared by all layers and move with every one of them; m_l and heat_l are what a layer adds. The numbers
ride in a `Family` of one rung, so that steps, noise, validation and the way on after an interruption are those of every
other fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ropewalk.attention.layer_tables import LayerNumbers
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.position_maps import LayerTables
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import Family, monotone
from ropewalk.search.fit import turning_rates
from ropewalk.search.map_family import Leaves, MapFamily, turned_frequencies

# How far a layer's temperature may stand from the shared one, as a logarithm, and move in a step at the full rate.
FURTHEST_HEAT, HEAT_RATE = 0.3, 0.015
# The same for a layer's profile; pairs that turn often move less, as in every fit.
PROFILE_RATE = 0.04


@dataclass(frozen=True)
class LayerFamily(MapFamily):
    """The numbers above: `apart` (layers, rotating pairs + 1) holds what each layer adds to m, and then to the heat."""

    apart: FloatArray = field(default_factory=lambda: np.zeros((0, 1)))

    @classmethod
    def at(cls, schedule: FrequencySchedule, layers: int) -> LayerFamily:
        """The family that starts with one schedule for every layer."""
        shared = Family.through([schedule])
        return cls(**vars(shared), apart=np.zeros((layers, len(shared.top) + 1)))

    def plan(self) -> LayerTables:
        """The map of these numbers."""
        geometry = self.geometry
        own = geometry.inv_freq[: geometry.num_rotating]
        tables = [geometry.padded(own * self.highest**-profile) for profile in self.top + self.apart[:, :-1]]
        logits = (self.attention_factor(self.highest) * np.exp(self.apart[:, -1])) ** 2
        return LayerTables(geometry.original_length, np.stack(tables), logits)

    @property
    def extra(self) -> FloatArray:
        """What the layers add, as one vector."""
        return self.apart.reshape(-1)

    @property
    def extra_rates(self) -> FloatArray:
        """Profiles as in every fit, temperatures slower."""
        one = np.append(turning_rates(self.geometry, PROFILE_RATE), HEAT_RATE)
        return np.tile(one, len(self.apart))

    def with_extra(self, values: FloatArray) -> LayerFamily:
        """Other layers, each brought back to where its profile is monotone and its temperature sane."""
        given = values.reshape(self.apart.shape)
        profiles = [monotone(self.top + row) - self.top for row in given[:, :-1]]
        heat = np.clip(given[:, -1:], -FURTHEST_HEAT, FURTHEST_HEAT)
        return replace(self, apart=np.concatenate([np.reshape(profiles, given[:, :-1].shape), heat], axis=1))

    def moved(self, low: FloatArray, top: FloatArray, cool: float, heat: float) -> LayerFamily:
        """Other shared numbers; with one rung there is nothing below the top."""
        made = super().moved(top, top, heat, heat)
        assert isinstance(made, LayerFamily)
        return made

    def to_json(self) -> dict[str, Any]:
        """For going on after an interruption."""
        return {**super().to_json(), "apart": self.apart.tolist()}

    @classmethod
    def from_json(cls, geometry: RopeGeometry, document: Mapping[str, Any]) -> LayerFamily:
        """What `to_json` wrote."""
        shared = vars(Family.from_json(geometry, document))
        return cls(**shared, apart=np.asarray(document["apart"], dtype=np.float64))

    def leaves(self) -> Leaves:
        """These numbers as tensors."""

        def make(top: Tensor, cool: Tensor, heat: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
            factor = (1.0 + heat * math.log(self.highest)) * apart[:, -1].exp()
            return turned_frequencies(self.geometry, self.highest, top + apart[:, :-1]), factor**2

        return Leaves.of(self, self.apart, make, LayerNumbers)
