"""The gradient fit: Adam on the family's numbers, profiles brought back to monotone ones after each step.

A pair that turns often has a large gradient that is mostly noise and holds over a tiny distance (its angle at the far
end changes by many radians); a pair that never turns has almost none. So

- the rate falls with the square of a pair's rotations in the window,
- a number moves only as far as its mean gradient stands above that mean's own noise,
- gradients below a floor count as what they are instead of being scaled up, or pairs that do not matter would drift,
- neighbours share their steps, and what is validated is the running mean of the iterates,
- a validation that is no better goes back to the best point, at half the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.search.family import Family
from ropewalk.search.objective import Weighed
from ropewalk.search.reading import Reader, Slope

FIRST_MOMENT, SECOND_MOMENT = 0.92, 0.97
EPSILON = 1e-10
# Nats per unit of the profile: a gradient below this moves its pair in proportion.
FLOOR = 0.01
# Rotations in the window at which a pair's rate is half of the slowest pairs'.
HALF_RATE = 8.0
# A pair's step is shared with its neighbours in this measure.
SHARED = (0.25, 0.5, 0.25)
# Two halves of a step's rows whose gradients point apart say little: rows are added until they agree, up to a limit.
AGREEMENT = 0.1


@dataclass(frozen=True)
class Settings:
    """How the fit steps. `pairs` is the least number of (text, planted) rows a step, `most_pairs` the limit."""

    learning_rate: float = 0.04
    heat_rate: float = 0.008
    final_share: float = 0.1
    temper: float = 0.02
    average: float = 0.8
    pairs: int = 2
    most_pairs: int = 3


@dataclass
class State:
    """Where a fit stands; with the same rows it goes on from here bit for bit."""

    family: Family
    mean: Family
    step: int = 0
    seen: int = 0
    rate: float = 1.0
    first: FloatArray = field(default_factory=lambda: np.zeros(0))
    second: FloatArray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def at(cls, family: Family) -> State:
        """The beginning."""
        size = len(flat_of(family))
        return cls(family, family, first=np.zeros(size), second=np.zeros(size))

    def back_to(self, best: Family) -> State:
        """The best point again, at half the rate; what the gradients were is kept."""
        return replace(self, family=best, mean=best, rate=self.rate / 2)

    def to_json(self) -> dict[str, Any]:
        """For going on after an interruption."""
        return {
            "step": self.step,
            "seen": self.seen,
            "rate": self.rate,
            "family": self.family.to_json(),
            "mean": self.mean.to_json(),
            "first": self.first.tolist(),
            "second": self.second.tolist(),
        }

    @classmethod
    def from_json(cls, start: Family, document: Mapping[str, Any]) -> State:
        """What `to_json` wrote, for the geometry of `start`."""
        return cls(
            start.from_json(start.geometry, document["family"]),
            start.from_json(start.geometry, document["mean"]),
            int(document["step"]),
            int(document["seen"]),
            float(document["rate"]),
            np.asarray(document["first"], dtype=np.float64),
            np.asarray(document["second"], dtype=np.float64),
        )


def flat_of(family: Family) -> FloatArray:
    """A family's numbers as one vector, in the order of `Slope.flat`."""
    return np.concatenate([family.low, family.top, family.extra, [family.cool, family.heat]])


def with_flat(family: Family, values: FloatArray) -> Family:
    """The family with the numbers of a vector, made monotone."""
    count = len(family.top)
    made = family.moved(values[:count], values[count : 2 * count], float(values[-2]), float(values[-1]))
    return made.with_extra(values[2 * count : -2])


def advance(state: State, start: Family, slopes: Sequence[Slope], share: float, settings: Settings) -> State:
    """The state after one step over some gradients. `share` (0 to 1) is how far the fit has come: the rate decays
    with its cosine. A pull towards the start, `temper` a step at the full rate, holds what no gradient speaks for.
    """
    pull = settings.temper * (flat_of(state.family) - flat_of(start))
    first, second, seen = state.first, state.second, state.seen
    for slope in slopes:
        gradient = slope.flat + pull
        first = FIRST_MOMENT * first + (1 - FIRST_MOMENT) * gradient
        second = SECOND_MOMENT * second + (1 - SECOND_MOMENT) * gradient**2
        seen += 1
    # Both moments began at zero (Adam's correction).
    mean = first / (1 - FIRST_MOMENT**seen)
    square = second / (1 - SECOND_MOMENT**seen)
    scaled = shrinkage(mean, square, seen) * mean / (np.sqrt(square) + FLOOR)
    decay = settings.final_share + (1 - settings.final_share) * (1 + math.cos(math.pi * min(1.0, share))) / 2
    moved = with_flat(
        state.family, flat_of(state.family) - state.rate * decay * _steps(state.family, scaled, settings)
    )
    # The mean forgets its beginning: with few steps behind it, it follows closely.
    step = state.step + 1
    keep = min(settings.average, step / (step + 3.0))
    average = with_flat(moved, keep * flat_of(state.mean) + (1 - keep) * flat_of(moved))
    return State(moved, average, step, seen, state.rate, first, second)


def shrinkage(mean: FloatArray, square: FloatArray, seen: int) -> FloatArray:
    """max(0, 1 - noise / mean ** 2), noise the variance of a running mean of `seen` gradients that were noise alone.

    After one gradient there is nothing to tell it from noise, and nothing moves.
    """
    past = FIRST_MOMENT**seen
    noise = (1 - FIRST_MOMENT) / (1 + FIRST_MOMENT) * (1 + past) / (1 - past) * square
    return np.asarray(np.maximum(0.0, 1.0 - noise / (mean**2 + EPSILON**2)), dtype=np.float64)


def turning_rates(geometry: RopeGeometry, learning_rate: float) -> FloatArray:
    """The rate of each rotating pair's profile: it falls with the square of the pair's rotations in the window."""
    turns = geometry.rotations[: geometry.num_rotating]
    return np.asarray(learning_rate / (1.0 + (turns / HALF_RATE) ** 2), dtype=np.float64)


def _steps(family: Family, scaled: FloatArray, settings: Settings) -> FloatArray:
    """Scaled gradients as steps: shared with neighbours, slower for pairs that turn often."""
    count = len(family.top)
    rate = turning_rates(family.geometry, settings.learning_rate)
    parts = []
    for values in (scaled[:count], scaled[count : 2 * count]):
        # The outermost pairs share with themselves.
        padded = np.concatenate([values[:1], values, values[-1:]])
        parts.append(rate * np.convolve(padded, SHARED, mode="valid"))
    extra = family.extra_rates * scaled[2 * count : -2]
    return np.concatenate([*parts, extra, settings.heat_rate * scaled[-2:]])


def step_slope(
    reader: Reader,
    family: Family,
    factor: float,
    text: Sequence[Weighed],
    planted: Sequence[Weighed],
    settings: Settings,
) -> tuple[list[Slope], int]:
    """The gradients of J over a step's pairs of rows, one a pair, and how many rows they took.

    `text` and `planted` are the rows of the step in order, `most_pairs` of each at most; planted ones may be missing.
    Processes that would have nothing to do read the next pairs at once; what counts is the same as with one.
    """
    pairs = [
        pair
        for number in range(settings.most_pairs)
        if (pair := [*text[number : number + 1], *planted[number : number + 1]])
    ]
    slopes: list[Slope] = []
    read: list[Slope] = []
    while len(slopes) < len(pairs):
        if len(slopes) == len(read):
            least = max(1, settings.pairs - len(read), reader.processes.world // 2)
            read += reader.slopes(family, factor, pairs[len(read) : len(read) + least])
        slopes.append(read[len(slopes)])
        if len(slopes) >= settings.pairs and agree(slopes):
            break
    return slopes, sum(len(pair) for pair in pairs[: len(slopes)])


def agree(slopes: Sequence[Slope]) -> bool:
    """Whether the two halves of some gradients point the same way: their cosine, by parts of like size.

    The temperature and the profile are compared in units of their own spread, so that no large noisy part decides.
    """
    if len(slopes) < 2:
        return False
    table = np.stack([slope.flat for slope in slopes])
    scale = np.sqrt((table**2).mean(axis=0)) + EPSILON
    half = len(slopes) // 2
    one, other = (table[:half] / scale).mean(axis=0), (table[half:] / scale).mean(axis=0)
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return size > 0 and float(one @ other) / size > AGREEMENT
