"""Key tokens: those that far context helps, chosen by one reference reader (LongPPL, arXiv:2410.23771).

A token beyond the original window is a key token when the reference gains at least `gain` nats on it from the whole
text over its cropped end, log p(x | long) - log p(x | short) >= gain, and then finds it likely enough,
log p(x | long) >= floor. One set serves every reader of a run.

The set flatters the reference, most of all against the cropped control: tokens on which it happened to do well against
exactly that control were picked. So key-token loss ranks readers beside each other; whether a reader beats cropping is
asked of tokens that nobody picked. `reverse` counts tokens that the same rule finds with long and short exchanged:
unless documents surely hold more key tokens than those, far context shifts losses up and down alike and the set is
noise.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.statistics.intervals import Interval, mean_interval, paired_interval
from ropewalk.evaluation.work.cells import LossArray

GAIN = 2.0
FLOOR = -2.0
# Fewer tokens than this say nothing about a reader.
LEAST_TOKENS = 50

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class KeyTokens:
    """The chosen tokens of every segment, for texts of `length` tokens, and how they were chosen."""

    masks: tuple[Mask, ...]
    length: int
    window: int
    reference: str
    short: str
    gain: float
    floor: float
    reverses: tuple[int, ...]
    excess: Interval

    @property
    def reverse(self) -> int:
        """How many tokens lose as much as a key token gains."""
        return sum(self.reverses)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(sum(mask.sum() for mask in self.masks))

    @property
    def told(self) -> bool:
        """Whether the set says something: enough tokens, and documents surely hold more of them than of their mirror
        image (`excess`, with its interval over documents)."""
        return self.count >= LEAST_TOKENS and self.excess.low is not None and self.excess.low > 0

    @property
    def why_not(self) -> str:
        """Why the set says nothing, in words; empty where it does."""
        if self.told:
            return ""
        if self.count < LEAST_TOKENS:
            return (
                f"{self.count} tokens gain {self.gain:g} nats from far context, and {LEAST_TOKENS} are wanted"
            )
        both = f"{self.count} tokens gain {self.gain:g} nats from far context and {self.reverse} lose as much by it"
        if self.excess.low is None:
            return f"{both}, in too few documents to tell from noise"
        if self.excess.mean <= 0:
            return f"{both}: no more than noise gives"
        return f"{both}, which these documents do not tell from noise"

    def to_json(self) -> dict[str, Any]:
        """How the set came about; `share` is of all tokens beyond the window."""
        beyond = len(self.masks) * (self.length - self.window)
        return {
            "reference": self.reference,
            "short": self.short,
            "length": self.length,
            "beyond": self.window,
            "gain": self.gain,
            "floor": self.floor,
            "tokens": self.count,
            "share": self.count / beyond if beyond else 0.0,
            "reverse": self.reverse,
            "excess": self.excess.mean,
            "excess_ci": self.excess.pair,
            "told": self.told,
            "why_not": self.why_not,
        }


def choose(
    long: Reading,
    short: Reading,
    length: int,
    window: int,
    *,
    names: tuple[str, str],
    bounds: tuple[float, float] = (GAIN, FLOOR),
    owners: Sequence[Hashable] | None = None,
) -> KeyTokens:
    """The key tokens between `window` and the end of the text of `length`; `names` are those of the two readings,
    `bounds` the least gain and the least log probability with it, `owners` the documents of the segments."""
    gain, floor = bounds
    stop = long.stops[length]
    masks, reverses = [], list[int]()
    for far, near in zip(long.losses[length], short.losses[length], strict=True):
        masks.append(_helped(near, far, window, stop, gain, floor))
        reverses.append(int(_helped(far, near, window, stop, gain, floor).sum()))
    helped = [int(mask.sum()) for mask in masks]
    excess = paired_interval(helped, reverses, list(range(len(masks))) if owners is None else owners)
    return KeyTokens(tuple(masks), stop, window, *names, gain, floor, tuple(reverses), excess)


def _helped(without: LossArray, given: LossArray, window: int, stop: int, gain: float, floor: float) -> Mask:
    """Tokens whose loss `given` is lower by `gain` and low enough. A token that was not scored (NaN) is none."""
    mask = np.zeros(len(given), dtype=bool)
    span = slice(window, stop)
    mask[span] = (without[span] - given[span] >= gain) & (-given[span] >= floor)
    return mask


def losses_of(reading: Reading, keys: KeyTokens, length: int) -> list[NDArray[np.float64]]:
    """A reader's losses on the key tokens, segment by segment."""
    rows = reading.losses[length]
    return [row[mask].astype(np.float64) for row, mask in zip(rows, keys.masks, strict=True)]


def key_token_loss(
    reading: Reading, keys: KeyTokens, length: int, owners: Sequence[Hashable] | None = None
) -> Interval | None:
    """Mean loss over the key tokens, interval over documents; None where there are none."""
    rows = losses_of(reading, keys, length)
    if not any(len(row) for row in rows):
        return None
    # One document alone: its segments are the units then, never its tokens, which hang together.
    named = list(range(len(rows))) if owners is None else list(owners)
    if len(set(named)) < 2:
        named = list(range(len(rows)))
    tokens = [owner for owner, row in zip(named, rows, strict=True) for _ in row]
    return mean_interval(np.concatenate(rows), tokens)
