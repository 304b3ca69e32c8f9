"""Key tokens of a search: what far text says and near text does not.

A token beyond the window is one where

- the longest match of what stands before it, three tokens at least, lies more than a window back, is longer than any
  match within a window, and goes on with that token;
- the unmodified model, with half a window before it or more and never all of a window back, gives it a nat of loss.

Neither asks how any stretched model reads the token. Where one schedule chooses the tokens on which it does well, it is
ahead of every other on just those by a tenth of a nat and more, and so is each point of a fit that has not yet moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.geometry import FloatArray
from ropewalk.search.reading import Reader
from ropewalk.search.rows import IdArray, Row

LEAST_MATCH, LONGEST_MATCH = 3, 32
LEAST_LOSS = 1.0


def find_keys(reader: Reader, rows: Sequence[Row]) -> list[FloatArray]:
    """For each row 1 for a key token and 0 for any other."""
    window = reader.original_length
    return [
        # A row inside the window holds none.
        key_tokens(row, near_losses(reader, row, window), window)
        if row.length > window
        else np.zeros(row.length)
        for row in rows
    ]


def key_tokens(row: Row, near: FloatArray, window: int) -> FloatArray:
    """The key tokens of a row, from its losses for the unmodified model that reads it in pieces of a window."""
    return (told_far(row.ids, window) & (near >= LEAST_LOSS)).astype(np.float64)


def told_far(ids: IdArray, window: int) -> NDArray[np.bool_]:
    """Whether far text goes on with each token where what stands before it was written once already.

    Matches longer than LONGEST_MATCH count as that long.
    """
    at = np.arange(len(ids))
    far, right, near = (np.zeros(len(ids), dtype=np.int64) for _ in range(3))
    # Equal numbers for equal contexts of the `length` tokens before a place; a place with fewer is like no other.
    context = np.zeros(len(ids), dtype=np.int64)
    for length in range(1, min(LONGEST_MATCH, len(ids) - 1) + 1):
        context, first = _grouped(context, np.concatenate([-1 - at[:length], ids[:-length]]))
        matched = at - first > window
        if not matched.any():
            # Nor is there a longer one.
            break
        far[matched] = length
        right[at - _grouped(context, ids)[1] > window] = length
        last = _before(context)
        near[(last >= 0) & (at - last <= window)] = length
    return np.asarray((right >= LEAST_MATCH) & (right == far) & (right > near))


def _grouped(one: IdArray, other: IdArray) -> tuple[IdArray, IdArray]:
    """A number for each pair of values, the same for equal pairs, and the place where that pair stands first."""
    least = other.min()
    _, first, numbers = np.unique(
        one * (other.max() - least + 1) + other - least, return_index=True, return_inverse=True
    )
    return numbers, first[numbers]


def _before(values: IdArray) -> IdArray:
    """For each place where its value stood last before (-1: never)."""
    order = np.argsort(values, kind="stable")
    last = np.full_like(order, -1)
    last[order[1:]] = np.where(values[order[1:]] == values[order[:-1]], order[:-1], -1)
    return last


def near_losses(reader: Reader, row: Row, window: int) -> FloatArray:
    """The loss of each token for the unmodified model that sees half a window before it at least, a window at most."""
    half = window // 2
    starts = list(range(0, max(1, row.length - window + 1), half))
    if starts[-1] + window < row.length:
        starts.append(row.length - window)
    pieces, _ = reader.read(None, [row.ids[start : start + window] for start in starts])
    losses = np.zeros(row.length)
    for start, piece in zip(starts, pieces, strict=True):
        # In the second half of a piece every token has half a window before it.
        first = 0 if start == 0 else window - half
        losses[start + first : start + len(piece)] = piece[first:]
    return losses
