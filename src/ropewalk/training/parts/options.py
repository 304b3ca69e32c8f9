"""The parts of a step as a recipe names them. No torch here, so that a recipe is read and checked in no time.

Each part's own options stand beside its code: in the same file where that needs no torch at import (positions, packing,
zones, every part of `batch/`), in `options.py` of its folder where it does. Every block is optional, strict (an unknown
key is an error) and frozen; `None` means unset.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from ropewalk.attention.options import TemperatureOptions
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.parts.memory.options import MemoryOptions
from ropewalk.training.parts.packing import PackingOptions
from ropewalk.training.parts.part import Part, PartsByName
from ropewalk.training.parts.positions import PositionOptions
from ropewalk.training.parts.weighting.options import WeightingOptions
from ropewalk.training.parts.zones import ZonesOptions
from ropewalk.training.vocabulary import CountFrom, Strict


class PartsOptions(Strict):
    """The parts that change what a step computes, as one value; `seed` is that of their random choices."""

    positions: PositionOptions = PositionOptions()
    packing: PackingOptions = PackingOptions(boundaries="none")
    weighting: WeightingOptions = WeightingOptions()
    loss: LossOptions = LossOptions()
    memory: MemoryOptions = MemoryOptions()
    temperature: TemperatureOptions | None = None
    parts: PartsByName = {}  # noqa: RUF012 - pydantic copies it
    zones: ZonesOptions | None = None
    seed: Annotated[CountFrom, Field(lt=2**31)] = 0

    @property
    def changing(self) -> list[Part]:
        """What changes a micro-batch, in the order in which it acts."""
        own = [self.weighting.input_noise, self.weighting.far_drop]
        return [*(part for part in own if part is not None), *self.parts.values()]

    @model_validator(mode="after")
    def _each_part_once(self) -> Self:
        names = [part.name for part in self.changing]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is asked for twice, under weighting and under parts: keep one")
        return self
