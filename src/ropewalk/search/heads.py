"""Temperatures of heads or of layers as one vector of logarithms, put on a model and taken off.

The first numbers belong to the first layer whose context grows; sliding layers have none. Axes: H heads of a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.head_temperatures import HeadTemperatures
from ropewalk.attention.interface import attention_modules
from ropewalk.attention.options import TemperatureOptions
from ropewalk.attention.temperature import apply_temperature, chosen_layers, num_query_heads
from ropewalk.errors import UsageError
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.models.live.rotary import bare
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import Family

WAYS = ("one", "layers", "heads")
# No head's logits are multiplied or divided by more than e; how far one moves in a step at the full rate.
FURTHEST = 1.0
RATE = 0.03


def check_temperatures(by: str, search: str, factors: Sequence[float]) -> None:
    """Refuse what no file could hold."""
    if by not in WAYS:
        raise UsageError(f"temperatures={by!r} is unknown", hint=f"use one of {', '.join(WAYS)}")
    if by != "one" and search != "fit":
        raise UsageError(
            f"search={search} fits no temperatures of {by}", hint="leave out --search, or --temperatures"
        )
    if by != "one" and len(factors) > 1:
        raise UsageError(
            f"temperatures of {by} go into weights, which hold one factor",
            hint="give --target in the place of --ladder",
        )


@dataclass(frozen=True, eq=False)
class Tempered:
    """A schedule with temperatures of heads or layers: what a reader reads a model under. `heads` are logarithms."""

    schedule: FrequencySchedule
    heads: FloatArray


@dataclass(frozen=True)
class TemperedFamily(Family):
    """A family of one rung whose heads or layers have temperatures of their own, as logarithms."""

    heads: FloatArray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def at(cls, family: Family, count: int) -> TemperedFamily:
        """The family that starts where no head differs from the others."""
        return cls(**vars(family), heads=np.zeros(count))

    def reading(self, factor: float) -> Tempered:
        """The schedule, and the temperatures that belong to it."""
        return Tempered(self.schedule(factor), self.heads)

    @property
    def extra(self) -> FloatArray:
        """The temperatures."""
        return self.heads

    @property
    def extra_rates(self) -> FloatArray:
        """One rate for all."""
        return np.full(len(self.heads), RATE)

    def with_extra(self, values: FloatArray) -> TemperedFamily:
        """Others, kept sane."""
        return replace(self, heads=np.clip(values, -FURTHEST, FURTHEST))

    def to_json(self) -> dict[str, Any]:
        """For going on after an interruption."""
        return {**super().to_json(), "heads": self.heads.tolist()}

    @classmethod
    def from_json(cls, geometry: RopeGeometry, document: Mapping[str, Any]) -> TemperedFamily:
        """What `to_json` wrote."""
        shared = vars(Family.from_json(geometry, document))
        return cls(**shared, heads=np.asarray(document["heads"], dtype=np.float64))


@dataclass(frozen=True)
class HeadLayout:
    """Which number of the vector belongs to which head. `heads` holds the number of heads of each of `layers`."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    by: str

    @classmethod
    def of(cls, model: Any, by: str) -> HeadLayout:
        """The layout of a model's tempered layers; `by` is `layers` or `heads`."""
        live = bare(model)
        modules, chosen = attention_modules(live), chosen_layers(live, "full")
        return cls(tuple(chosen), tuple(num_query_heads(modules[layer]) for layer in chosen), by)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self.layers) if self.by == "layers" else sum(self.heads)

    def split(self, values: Tensor) -> dict[int, Tensor]:
        """The logarithms of each layer's heads, (H,) by layer."""
        if self.by == "layers":
            return {
                layer: value.expand(heads) for layer, value, heads in zip(self.layers, values, self.heads)
            }
        return dict(zip(self.layers, torch.split(values, list(self.heads)), strict=True))

    @contextlib.contextmanager
    def applied(self, model: Any, values: Tensor) -> Iterator[None]:
        """Inside the block every head's logits are multiplied by the exponential of its number."""
        # With the logarithms given nobody looks at factor or layers; the rule asks for a factor all the same.
        options = TemperatureOptions(rule="per-head", factor=1.0, layers="all")
        with apply_temperature(bare(model), options, logs=self.split(values)):
            yield

    def file(self, values: FloatArray, factor: float, fitted: Mapping[str, Any]) -> HeadTemperatures:
        """The document that `extend --temperature` folds into weights."""
        layers = self.split(torch.from_numpy(np.array(values, dtype=np.float64)))
        return HeadTemperatures(
            factor, {layer: np.exp(item.numpy()) for layer, item in layers.items()}, fitted
        )
