"""Dynamic scaling: a rule that picks a schedule for the length in view, over any method.

s(l) = max(1, l/L). A full forward at length l uses one schedule for every position, and so is exact. Decoding with a
cache is not: cached keys, and the hidden states below them, were made under earlier schedules. So s grows in epochs
(1, g, g**2, ...), and at the end of an epoch the kept tokens are prefilled again: equal to a fresh forward. With g = 2
all these prefills together read fewer tokens than the epoch reached holds; right after a switch that is almost twice
the length so far, at the end of the epoch less than once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.geometry import RopeGeometry, whole_tokens
from ropewalk.methods import find_method, schedule
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Epoch:
    """A stretch of lengths served by one schedule: first_length <= l <= last_length, in tokens."""

    factor: float
    first_length: int
    last_length: int


@dataclass(frozen=True)
class DynamicRule:
    """The schedule for each length. At l <= original_length it is the unmodified model, bit for bit."""

    method: str
    geometry: RopeGeometry
    growth: float = 2.0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find_method(self.method).checked(self.parameters)
        if not math.isfinite(self.growth) or self.growth <= 1.0:
            raise UsageError(
                f"growth={self.growth} lets no epoch end", hint="use growth > 1; 2 doubles each time"
            )

    def factor_at(self, length: int) -> float:
        """s(l) = max(1, l/L), the factor of a full forward over l tokens."""
        if length < 1:
            raise UsageError(f"length={length} is not a number of tokens", hint="give 1 or more")
        return max(1.0, length / self.geometry.original_length)

    def schedule_at(self, length: int) -> FrequencySchedule:
        """The schedule of a full forward over `length` tokens."""
        return self._scaled(self.factor_at(length))

    def epoch_of(self, length: int) -> Epoch:
        """The epoch that serves a length while decoding: the smallest g**k with g**k * L >= length."""
        number, factor, first = 0, 1.0, 1
        # For its check alone.
        self.factor_at(length)
        while self._reach(factor) < length:
            first = self._reach(factor) + 1
            number += 1
            # A power, not a running product, whose roundings would move the ends of late epochs.
            factor = self.growth**number
        return Epoch(factor, first, self._reach(factor))

    def epochs(self, target_length: int) -> list[Epoch]:
        """Every epoch up to a target length, the last one cut there."""
        found, length = [], 1
        while length <= target_length:
            epoch = self.epoch_of(length)
            found.append(Epoch(epoch.factor, epoch.first_length, min(epoch.last_length, target_length)))
            length = epoch.last_length + 1
        return found

    def epoch_schedule(self, length: int) -> FrequencySchedule:
        """The schedule of the epoch that a length falls into."""
        return self._scaled(self.epoch_of(length).factor)

    def _reach(self, factor: float) -> int:
        return whole_tokens(factor * self.geometry.original_length, math.floor)

    def _scaled(self, factor: float) -> FrequencySchedule:
        if factor == 1.0:
            # Not the method at factor 1: with parameters given it may act there, and inside the window
            # nothing shall.
            return schedule("none", self.geometry, factor=1.0)
        return schedule(self.method, self.geometry, factor=factor, **self.parameters)


def dynamic(method: str, geometry: RopeGeometry, *, growth: float = 2.0, **parameters: Any) -> DynamicRule:
    """Dynamic scaling over any method; `dynamic-ntk` and `ntk` name the same rule.

    >>> rule = dynamic("ntk", RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512))
    >>> [epoch.factor for epoch in rule.epochs(4096)]
    [1.0, 2.0, 4.0, 8.0]
    >>> rule.schedule_at(300).is_identity
    True
    """
    return DynamicRule(method.removeprefix("dynamic-"), geometry, growth, parameters)
