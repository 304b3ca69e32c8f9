"""The controls: what the number would be without the longer window. No score means anything without them.

- cropped: the same model reading only the last `original_length` tokens. Zero-shot extension is worth something only
  where it beats this.
- unmodified: the model before its window was stretched, reading everything.
- chance: what guessing gets (it stands beside every retrieval score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss.reading import LengthLoss, Reading, means, tail_start
from ropewalk.evaluation.loss.sliding import Window, plan_windows, windows_loss
from ropewalk.evaluation.statistics.intervals import Interval, paired_interval
from ropewalk.evaluation.work.cells import LossArray
from ropewalk.text.segments import Segment


@dataclass(frozen=True)
class Crop:
    """How the cropped control reads: a window of `length` tokens that moves by `stride`.

    Stride 1 is the exact crop. A larger one reads less: the context of a token is then between `length -
    stride` and `length - 1` tokens, which makes the control a little weaker than the exact one.
    """

    length: int
    stride: int

    @classmethod
    def of(cls, original_length: int, stride: int | None = None) -> Crop:
        """By default the window moves by an eighth of itself."""
        chosen = max(1, original_length // 8) if stride is None else stride
        if not 1 <= chosen <= max(1, original_length // 2):
            raise UsageError(
                f"crop_stride={chosen} is not between 1 and half of original_length={original_length}",
                hint="1 is the exact crop",
            )
        return cls(original_length, chosen)

    @property
    def contexts(self) -> str:
        """What a token sees, in words."""
        if self.stride == 1:
            return f"exactly the last {self.length - 1} tokens"
        return f"the last {self.length - self.stride} to {self.length - 1} tokens"


def read_cropped(
    engine: Engine,
    segment: Segment,
    crop: Crop,
    *,
    first: int = 1,
    opening: Sequence[int] = (),
) -> LossArray:
    """Loss of the tokens from `first` on of a segment when no token sees further back than the crop.

    The others are NaN. By default all tokens are read; those of the first window see what there is before them.
    """
    # The window that ends just behind `first` scores it with a full crop; before it nothing is wanted.
    begin = max(0, first + 1 - crop.length)
    windows = [
        Window(one.begin + begin, one.end + begin, max(one.first + begin, first))
        for one in plan_windows(len(segment.ids) - begin, crop.length, crop.stride)
    ]
    return windows_loss(engine, segment.ids, windows, opening=opening)


def tail_difference(
    reading: Reading,
    control: Reading,
    length: int,
    owners: Sequence[int] | None = None,
) -> Interval:
    """Tail loss at `length` minus the control's, paired by segment: below zero, the longer context helps."""
    stop = reading.stops[length]
    start = tail_start(stop)
    ours, theirs = reading.losses[length], control.losses[length]
    return paired_interval(means(ours, start, stop), means(theirs, start, stop), owners)


def with_difference(row: LengthLoss, difference: Interval) -> dict[str, Any]:
    """A control's row with what the measured model gains over it (`gain` above zero: the model is better)."""
    low, high = difference.low, difference.high
    return row.to_json() | {
        "tail_gain": -difference.mean,
        "tail_gain_ci": None if low is None or high is None else [-high, -low],
    }
