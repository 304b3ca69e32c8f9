"""Windows over a text: the published sliding-window protocol and the cropped control are the same reading.

A window of `window` tokens moves by `stride`; each scores only what the one before did not. The first window
scores everything that it can, so its first tokens have less context than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ropewalk.errors import UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.work.cells import LossArray


@dataclass(frozen=True)
class Window:
    """Tokens `begin` to `end` are read, tokens `first` to `end` are scored."""

    begin: int
    end: int
    first: int

    @property
    def scored(self) -> int:
        """How many tokens it scores."""
        return self.end - self.first


def plan_windows(length: int, window: int, stride: int) -> list[Window]:
    """The windows of a text of `length` tokens.

    >>> [(w.begin, w.end, w.first) for w in plan_windows(10, 4, 2)]
    [(0, 4, 1), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    """
    if window < 2 or not 1 <= stride <= window:
        raise UsageError(
            f"window={window}, stride={stride} cannot slide",
            hint="use a window of 2 or more and 1 <= stride <= window",
        )
    windows = [Window(0, min(window, length), 1)]
    while windows[-1].end < length:
        before = windows[-1]
        begin = before.begin + stride
        if length - begin < 2:
            # Windows that do not overlap may leave one token over, which has nothing before it to be read with.
            break
        windows.append(Window(begin, min(begin + window, length), before.end))
    return windows


def windows_loss(
    engine: Engine,
    ids: Sequence[int] | NDArray[np.int64],
    windows: Sequence[Window],
    *,
    opening: Sequence[int] = (),
) -> LossArray:
    """Loss of every token that the windows score, at its place in the text (the others are NaN).

    Windows that do not reach the beginning get the tokenizer's `opening` (BOS) in place of their first
    tokens: a model that needs it must not be judged without it, and the window keeps its size. Only scored
    positions have logits, and windows of equal shape share a forward.
    """
    text = torch.as_tensor(np.asarray(ids), dtype=torch.long)
    head = torch.as_tensor(list(opening), dtype=torch.long)
    losses = np.full(len(text), np.nan, dtype=np.float32)
    for batch in _batches(engine, windows):
        # Nothing is scored inside the opening: the text's own tokens gave way to it there.
        first = max(1, batch[0].first - batch[0].begin, len(head) if batch[0].begin else 1)
        if first >= batch[0].end - batch[0].begin:
            # A short last window that its opening fills.
            continue
        rows = []
        for one in batch:
            row = text[one.begin : one.end].clone()
            if one.begin and len(head):
                row[: len(head)] = head
            rows.append(row)
        found = engine.nll(torch.stack(rows), start=first).numpy()
        for one, values in zip(batch, found, strict=True):
            losses[one.end - len(values) : one.end] = values
    return losses


def _batches(engine: Engine, windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Neighbours of the same shape, as many as one forward is good for; the first has no opening and stands alone."""
    batch: list[Window] = []
    for one in windows:
        same = bool(batch) and _shape(one) == _shape(batch[0])
        if batch and (not same or len(batch) >= engine.rows_for(one.end - one.begin)):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _shape(one: Window) -> tuple[int, int, bool]:
    return one.end - one.begin, one.first - one.begin, one.begin == 0


def window_mean(losses: LossArray, windows: Sequence[Window]) -> float:
    """Mean over windows of each window's own mean: the unweighted variant of the YaRN evaluation script.

    The first window, which scores many more tokens, weighs as much as each of the others.
    """
    scored = [row for one in windows if not np.isnan(row := losses[one.first : one.end]).all()]
    return float(np.mean([np.nanmean(row.astype(np.float64)) for row in scored]))
