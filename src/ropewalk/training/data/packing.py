"""Filling rows with documents, and telling attention where one ends and the next begins.

A row is described by `documents_BT`, the number of the document that each token belongs to (rising along the row, -1
for padding), and `positions_BT`. Transformers guesses document borders from jumps in `position_ids`; that guess takes
a skipped position for a border, so what is meant is always said outright here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError
from ropewalk.training.recipe.options import PackingOptions

__all__ = [
    "PackedRow",
    "PackingOptions",
    "attention_inputs",
    "fitting_engines",
    "pack",
    "row_labels",
    "row_positions",
]

IntArray = NDArray[np.int64]
PADDING = -1


@dataclass(frozen=True)
class PackedRow:
    """One row of `length` tokens: ids, document numbers (-1 for padding) and positions, all int64."""

    tokens: IntArray
    documents: IntArray
    positions: IntArray


def pack(
    documents: Iterable[IntArray | list[int]],
    length: int,
    options: PackingOptions,
    *,
    strategy: Literal["stream", "fit"] = "stream",
    pad_id: int = 0,
) -> Iterator[PackedRow]:
    """Rows of exactly `length` tokens from documents of any length, none of whose tokens is lost or repeated.

    `stream` lays documents end to end and cuts every `length` tokens, so that a document may go on in the next row (as
    a document of its own there); only the last row is padded. `fit` cuts documents longer than a row and puts the
    pieces where they fit best (longest first, fullest row that still holds it), so that nothing else is ever split and
    rows end in padding.

    >>> rows = list(pack([[1, 2, 3], [4, 5]], 4, PackingOptions()))
    >>> rows[0].tokens.tolist(), rows[0].documents.tolist(), rows[0].positions.tolist()
    ([1, 2, 3, 4], [0, 0, 0, 1], [0, 1, 2, 0])
    """
    if length < 1:
        raise UsageError(f"length={length} holds no token", hint="give the length of a row, 1 or more")
    pieces = _stream(documents, length) if strategy == "stream" else _fit(documents, length)
    for parts in pieces:
        yield _row(parts, length, options, pad_id)


def row_labels(tokens_BT: Any, documents_BT: Any, *, ignore: int = -100) -> Any:
    """Shifted labels of packed rows (numpy or torch): the next token, `ignore` across borders, at the end, on padding.

    >>> row_labels(np.array([[1, 2, 3, 4]]), np.array([[0, 0, 1, 1]])).tolist()
    [[2, -100, 4, -100]]
    """
    labels = tokens_BT.copy() if isinstance(tokens_BT, np.ndarray) else tokens_BT.clone()
    labels[:, :-1] = tokens_BT[:, 1:]
    labels[:, -1] = ignore
    labels[:, :-1][documents_BT[:, 1:] != documents_BT[:, :-1]] = ignore
    labels[documents_BT == PADDING] = ignore
    return labels


def fitting_engines(options: PackingOptions, implementation: str) -> tuple[str, ...]:
    """The ways of telling borders that this attention may understand, best first; a wrong choice is refused.

    >>> fitting_engines(PackingOptions(), "sdpa"), fitting_engines(PackingOptions(engine="native"), "eager")
    (('varlen', 'mask', 'native'), ('native',))
    """
    if implementation == "sdpa":
        fitting: tuple[str, ...] = ("varlen", "mask", "native")
    else:
        fitting = ("varlen", "native") if implementation.startswith("flash") else ("native",)
    if options.engine == "auto":
        return fitting
    if options.engine not in fitting:
        raise UsageError(
            f"packing.engine={options.engine} does not work with {implementation} attention",
            hint=f"use {' or '.join(fitting)}, or another attention",
        )
    return (options.engine,)


def attention_inputs(documents_BT: Any, positions_BT: Any, *, engine: str) -> dict[str, Any]:
    """Keyword arguments for a model's forward that make attention block-diagonal, with any positions (torch tensors).

    `varlen` gives the borders as cumulative lengths over the flattened batch, which FlashAttention and the attention of
    `ropewalk.attention.interface` read: no mask is made. `mask` gives a (B, 1, T, T) boolean mask for SDPA: memory
    grows with T * T. `native` leaves it to transformers to see borders where positions restart (FlexAttention's block
    mask is made so). `none` has no borders, and keeps transformers from guessing any. Padding is a document of its own.
    The cache is off: with one, transformers ignores borders.
    """
    import torch

    if engine == "varlen":
        borders = torch.ones_like(documents_BT, dtype=torch.bool)
        borders[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        starts = borders.flatten().nonzero().flatten()
        bounds = torch.cat([starts, starts.new_tensor([documents_BT.numel()])]).to(torch.int32)
        longest = int((bounds[1:] - bounds[:-1]).max())
        extra: dict[str, Any] = {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
            "attention_mask": torch.ones_like(documents_BT),
        }
    elif engine == "mask":
        same = documents_BT[:, :, None] == documents_BT[:, None, :]
        extra = {"attention_mask": same.tril()[:, None]}
    elif engine == "native":
        jumps = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
        if not torch.equal(jumps, documents_BT[:, 1:] != documents_BT[:, :-1]):
            raise UsageError(
                "positions do not restart exactly where documents begin, so transformers would see other borders",
                hint="use packing.engine varlen or mask, or positions that restart",
            )
        extra = {}
    elif engine == "none":
        extra = {"attention_mask": torch.ones_like(documents_BT)}
    else:
        raise UsageError(f"packing engine {engine!r} is not known", hint="use varlen, mask, native or none")
    return {"position_ids": positions_BT, "use_cache": False, **extra}


def _stream(documents: Iterable[IntArray | list[int]], length: int) -> Iterator[list[IntArray]]:
    parts: list[IntArray] = []
    room = length
    for document in documents:
        rest = np.asarray(document, dtype=np.int64)
        while len(rest):
            parts.append(rest[:room])
            room -= len(parts[-1])
            rest = rest[len(parts[-1]) :]
            if room == 0:
                yield parts
                parts, room = [], length
    if parts:
        yield parts


def _fit(documents: Iterable[IntArray | list[int]], length: int) -> Iterator[list[IntArray]]:
    pieces = []
    for document in documents:
        tokens = np.asarray(document, dtype=np.int64)
        pieces += [tokens[start : start + length] for start in range(0, len(tokens), length)]
    rows: list[list[IntArray]] = []
    by_room: dict[int, list[int]] = {}
    for piece in sorted(pieces, key=len, reverse=True):
        room = next((space for space in range(len(piece), length + 1) if by_room.get(space)), None)
        if room is None:
            rows.append([piece])
            index, room = len(rows) - 1, length
        else:
            index = by_room[room].pop()
            rows[index].append(piece)
        by_room.setdefault(room - len(piece), []).append(index)
    yield from rows


def _row(parts: list[IntArray], length: int, options: PackingOptions, pad_id: int) -> PackedRow:
    tokens = np.full(length, pad_id, dtype=np.int64)
    documents = np.full(length, PADDING, dtype=np.int64)
    start = 0
    for number, part in enumerate(parts):
        tokens[start : start + len(part)] = part
        documents[start : start + len(part)] = number
        start += len(part)
    return PackedRow(tokens, documents, row_positions(documents[None], options)[0])


def row_positions(documents_BT: IntArray, options: PackingOptions) -> IntArray:
    """Positions of packed rows: from 0 in every document with `restart`, 0 .. T-1 with `run-on` or without borders.

    >>> row_positions(np.array([[0, 0, 1, 1, 1]]), PackingOptions()).tolist()
    [[0, 1, 0, 1, 2]]
    """
    index = np.tile(np.arange(documents_BT.shape[1], dtype=np.int64), (documents_BT.shape[0], 1))
    if options.positions == "run-on" or options.boundaries == "none":
        return index
    first = np.ones(documents_BT.shape, dtype=bool)
    first[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index - np.maximum.accumulate(np.where(first, index, 0), axis=1)
