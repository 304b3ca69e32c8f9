"""Position-skip training: a short row that shows the model distances up to the target length.

Attention with RoPE depends on differences of positions only, so a window of W tokens whose positions are spread over
0 .. target_length-1 trains the far distances at the cost of W.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ropewalk.errors import UsageError
from ropewalk.training.vocabulary import Share, Strict, Tokens

IntArray = NDArray[np.int64]


class PositionOptions(Strict):
    """Position-skip training: positions up to `target_length` inside a shorter window."""

    kind: Literal["plain", "pose", "random"] = "plain"
    target_length: Tokens | None = None
    num_chunks: Annotated[int, Field(ge=2, le=1024)] = 2
    share: Share = 1.0
    keep_first: bool = True


def sample_positions(
    options: PositionOptions,
    *,
    length: int,
    batch: int,
    rng: np.random.Generator,
    target_length: int | None = None,
) -> IntArray:
    """Positions of shape (batch, length), int64, strictly rising along a row, all in [0, target_length).

    - `plain`: 0 .. length-1.
    - `pose` (arXiv 2309.10400): the row is cut into `num_chunks` pieces at random; positions run on inside a piece, and
      before each piece but the first a skip is drawn uniformly from what is left of target_length - length.
    - `random` (arXiv 2305.16843): `length` of the target's positions drawn without replacement, in order.

    `target_length` here overrides an unset one in the options. With `keep_first` position 0 is always used, as it is
    where attention sinks live. `share` of the rows skip, the rest are plain. A target equal to `length` is plain.

    >>> options = PositionOptions(kind="pose", target_length=64)
    >>> row = sample_positions(options, length=16, batch=1, rng=np.random.default_rng(0))[0]
    >>> int(row[0]), bool(row[-1] < 64), int((np.diff(row) > 1).sum()) <= 1
    (0, True, True)
    """
    plain = np.arange(length, dtype=np.int64)
    if options.kind == "plain":
        return np.tile(plain, (batch, 1))
    target = options.target_length if options.target_length is not None else target_length
    if target is None:
        raise UsageError(
            f"positions: {options.kind} has no target_length", hint="give the length to train for"
        )
    if target < length:
        raise UsageError(
            f"target_length={target} is shorter than the row of {length} tokens",
            hint="position skipping trains for a target longer than the window",
        )
    sample = _pose if options.kind == "pose" else _random
    rows = [
        sample(options, length, target, rng) if rng.random() < options.share else plain for _ in range(batch)
    ]
    return np.stack(rows)


def check_target(options: PositionOptions, *, target_length: int, trained_length: int) -> None:
    """Refuse a RoPE schedule that was made for another length than the positions will reach.

    `target_length` is what the schedule was made for, `trained_length` the length of a row.
    """
    if options.kind == "plain":
        return
    reached = options.target_length if options.target_length is not None else target_length
    if reached > target_length:
        raise UsageError(
            f"positions reach {reached}, beyond the {target_length} that the RoPE schedule was made for",
            hint="give rope and positions the same target_length",
        )
    if reached < trained_length:
        raise UsageError(
            f"positions.target_length={reached} is shorter than a row of {trained_length} tokens",
            hint="raise target_length, or train with plain positions",
        )


def _pose(options: PositionOptions, length: int, target: int, rng: np.random.Generator) -> IntArray:
    num_chunks = min(options.num_chunks, length)
    cuts = np.sort(rng.choice(np.arange(1, length), size=num_chunks - 1, replace=False))
    offsets = np.zeros(num_chunks, dtype=np.int64)
    offsets[0] = 0 if options.keep_first else rng.integers(0, target - length + 1)
    for index in range(1, num_chunks):
        # Offsets never fall, so positions rise; the largest puts the last token at target - 1.
        offsets[index] = rng.integers(offsets[index - 1], target - length + 1)
    # From the right: the token at a cut begins the next piece.
    pieces = np.searchsorted(cuts, np.arange(length), side="right")
    return np.arange(length, dtype=np.int64) + offsets[pieces]


def _random(options: PositionOptions, length: int, target: int, rng: np.random.Generator) -> IntArray:
    if not options.keep_first:
        return np.sort(rng.choice(target, size=length, replace=False)).astype(np.int64)
    rest = rng.choice(np.arange(1, target), size=length - 1, replace=False)
    return np.concatenate([[0], np.sort(rest)]).astype(np.int64)
