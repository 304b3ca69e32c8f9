"""A family of one rung that is a position map: what every kind of map that can be fitted gives to the fit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.layer_tables import LayerNumbers
from ropewalk.attention.maps import FarZone
from ropewalk.errors import RopewalkError
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.position_maps import LayerTables, Zones
from ropewalk.search.family import Family

Fitted = TypeVar("Fitted", FarZone, LayerNumbers)


@dataclass(frozen=True)
class MapFamily(Family):
    """A family whose numbers are those of a map. `factor` is given and has no say: there is one rung."""

    def reading(self, factor: float) -> Zones | LayerTables:
        """The map of these numbers."""
        return self.plan()

    @abstractmethod
    def plan(self) -> Zones | LayerTables:
        """The map of these numbers."""

    @abstractmethod
    def leaves(self) -> Leaves:
        """These numbers as tensors."""


@dataclass
class Leaves:
    """The numbers of a family (profile, `cool`, `heat`, its extra) as tensors, and what an attention is given.

    What was made from the numbers is a leaf of its own there, cut off from its making: rows go backward one by one,
    and the small graph from the numbers is walked back once, after them.
    """

    numbers: Sequence[Tensor]
    made: Sequence[Tensor]
    fitted: FarZone | LayerNumbers

    @classmethod
    def of(
        cls, family: Family, extra: FloatArray, make: Callable[..., Sequence[Tensor]], kind: type[Fitted]
    ) -> Leaves:
        """Leaves that ask for gradients; `make` turns the four numbers into what `kind` holds, in its order."""
        numbers = [
            torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for value in (family.top, family.cool, family.heat, extra)
        ]
        made = make(*numbers)
        return cls(numbers, made, kind(*(item.detach().requires_grad_(True) for item in made)))

    def gradients(self) -> tuple[FloatArray, float, float, FloatArray]:
        """Of profile, `cool`, `heat` and the extra numbers, once rows went backward."""
        found = list(vars(self.fitted).values())
        if any(item.grad is None for item in found):
            raise RopewalkError(
                "no gradient reaches the map's numbers", hint="use --search sweep, which needs none"
            )
        # What is constant was made from no number.
        reached = [
            (made, item.grad) for made, item in zip(self.made, found, strict=True) if made.requires_grad
        ]
        torch.autograd.backward([made for made, _ in reached], [grad for _, grad in reached])
        top, cool, heat, extra = (gradient_of(item) for item in self.numbers)
        return top, float(cool), float(heat), extra.reshape(-1)


def gradient_of(number: Tensor) -> FloatArray:
    """A leaf's gradient; zeros where none reached it."""
    found = torch.zeros_like(number) if number.grad is None else number.grad
    return np.asarray(found.detach().numpy(), dtype=np.float64)


def turned_frequencies(geometry: RopeGeometry, factor: float, profile_P: Tensor) -> Tensor:
    """theta * s ** -m of the rotating pairs (profiles along the last axis), and zeros for pairs that stand still."""
    own = torch.tensor(geometry.inv_freq[: geometry.num_rotating], dtype=torch.float64)
    turned = own * torch.exp(-math.log(factor) * profile_P)
    still = turned.new_zeros(*turned.shape[:-1], geometry.half_dim - geometry.num_rotating)
    return torch.cat([turned, still], dim=-1)
