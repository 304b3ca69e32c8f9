"""Loss by length and by position, from the loss of every token of every segment.

With causal attention one forward over the longest length holds the answer for every shorter one: the first l
tokens of a text are read the same whether or not more follow. That fails only for models whose rotation
depends on the length; those get one forward for each rule (`Regime`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.statistics.intervals import Interval, mean_interval
from ropewalk.evaluation.work.cells import LossArray
from ropewalk.text.segments import Segment

TAIL = 0.25


@dataclass(frozen=True)
class LengthLoss:
    """Loss at one length: mean over the first `length` tokens, and over the last quarter of them (the tail)."""

    length: int
    loss: Interval
    tail: Interval

    def to_json(self) -> dict[str, Any]:
        """One row of the `loss` table. Losses in nats per token."""
        return {
            "length": self.length,
            "loss": self.loss.mean,
            "perplexity": perplexity(self.loss.mean),
            "ci": self.loss.floored().pair,
            "tail_loss": self.tail.mean,
            "tail_ci": self.tail.floored().pair,
            "units": self.loss.units,
        }


@dataclass(frozen=True)
class Reading:
    """Per-token losses of every segment for each length. `stops[l]` is where the text of length l ends.

    Under the prefix protocol that is l itself; under the sliding one it is the whole segment, read through windows of
    l tokens. `means` holds the losses of segments that are not the mean over their tokens (`--window-mean`).
    """

    losses: Mapping[int, Sequence[LossArray]]
    stops: Mapping[int, int]
    means: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def prefix(cls, losses: Mapping[int, Sequence[LossArray]]) -> Reading:
        """A reading in which length l is the first l tokens."""
        for length, rows in losses.items():
            if length < 2 or any(len(row) < length for row in rows):
                raise UsageError(
                    f"length {length} does not fit the measured text", hint="measure longer text"
                )
        return cls(losses, {length: length for length in losses})

    @property
    def longest(self) -> Sequence[LossArray]:
        """The losses at the longest length."""
        return self.losses[max(self.losses)]


def perplexity(loss: float) -> float:
    """exp(loss); infinite where a float cannot hold it."""
    # exp(709.8) is the largest number that a float holds; Python raises beyond it.
    return math.exp(loss) if loss < 700 else math.inf


def read_prefix(engine: Engine, segments: Sequence[Segment], length: int) -> list[LossArray]:
    """Loss of every token of each segment's first `length` tokens (index 0 is NaN: nothing comes before it)."""
    found = engine.nll(np.stack([segment.ids[:length] for segment in segments])).numpy()
    return [np.concatenate([np.full(1, np.nan, dtype=np.float32), row]) for row in found]


def forwards_needed(engine: Engine, lengths: Sequence[int]) -> list[list[int]]:
    """Groups of lengths that one forward of each group's longest answers: a single group for static rotations."""
    ordered = sorted(lengths)
    return [ordered] if engine.regime is None else engine.regime.groups(ordered)


def tail_start(length: int) -> int:
    """First token of the tail: the last quarter before `length`."""
    return max(1, length - max(1, int(length * TAIL)))


def by_length(
    reading: Reading, lengths: Sequence[int], owners: Sequence[int] | None = None
) -> list[LengthLoss]:
    """The table: one row a length, from the per-token losses of every segment."""
    rows = []
    for length in sorted(lengths):
        losses, stop = reading.losses[length], reading.stops[length]
        whole = reading.means.get(length)
        rows.append(
            LengthLoss(
                length,
                mean_interval(means(losses, 1, stop) if whole is None else whole, owners),
                mean_interval(means(losses, tail_start(stop), stop), owners),
            )
        )
    return rows


def means(losses: Sequence[LossArray], start: int, stop: int) -> NDArray[np.float64]:
    """For each segment the mean loss of tokens `start` to `stop`."""
    # In float64: differences between readers are smaller than what a sum of thousands of float32 loses.
    return np.array([np.nanmean(row[start:stop].astype(np.float64)) for row in losses])


def by_position(
    losses: Sequence[LossArray], owners: Sequence[int] | None = None, *, points: int = 32
) -> list[dict[str, Any]]:
    """The curve: mean loss between neighbouring positions, on edges that grow by a constant ratio from 1 to the end,
    each with its interval over documents."""
    length = min(len(row) for row in losses)
    edges = np.unique(np.round(np.geomspace(1, length, min(points, length) + 1)).astype(int))
    curve = []
    for start, end in itertools.pairwise(edges):
        found = mean_interval(means(losses, start, end), owners)
        curve.append({"start": int(start), "end": int(end), "loss": found.mean, "ci": found.floored().pair})
    return curve
