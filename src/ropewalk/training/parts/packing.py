"""Telling attention where one document of a row ends and the next begins.

A row is described by `documents_BT`, the number of the document that each token belongs to (rising along the row), and
`positions_BT`. Transformers guesses document borders from jumps in `position_ids`; that guess takes
a skipped position for a border, so what is meant is always said outright here.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ropewalk.errors import UsageError
from ropewalk.training.vocabulary import Strict, also

IntArray = NDArray[np.int64]


class PackingOptions(Strict):
    """What a token may see of the other documents in its row, where positions start, and how rows are filled.

    `rows: stream` lays documents end to end; `rows: fit` puts whole ones together and cuts only those that are longer
    than a row, at the price of some padding.
    """

    boundaries: Literal["block-diagonal", "none"] = "block-diagonal"
    positions: Literal["restart", "run-on"] = "restart"
    rows: Literal["stream", "fit"] = "stream"
    method: Literal["auto", "varlen", "mask", "native"] = Field(
        "auto", validation_alias=also("method", "engine")
    )


def fitting_methods(options: PackingOptions, implementation: str) -> tuple[str, ...]:
    """The ways of telling borders that this attention may understand, best first; a wrong choice is refused.

    >>> fitting_methods(PackingOptions(), "sdpa"), fitting_methods(PackingOptions(method="native"), "eager")
    (('varlen', 'mask', 'native'), ('native',))
    """
    if implementation == "sdpa":
        fitting: tuple[str, ...] = ("varlen", "mask", "native")
    else:
        fitting = ("varlen", "native") if implementation.startswith("flash") else ("native",)
    if options.method == "auto":
        return fitting
    if options.method not in fitting:
        raise UsageError(
            f"packing.method={options.method} does not work with {implementation} attention",
            hint=f"use {' or '.join(fitting)}, or another attention",
        )
    return (options.method,)


def attention_inputs(documents_BT: Any, positions_BT: Any, *, method: str) -> dict[str, Any]:
    """Keyword arguments for a model's forward that make attention block-diagonal, with any positions (torch tensors).

    `varlen` gives the borders as cumulative lengths over the flattened batch, which FlashAttention and the attention of
    `ropewalk.attention.interface` read: no mask is made. `mask` gives a (B, 1, T, T) boolean mask for SDPA: memory
    grows with T * T. `native` leaves it to transformers to see borders where positions restart (FlexAttention's block
    mask is made so). `none` has no borders, and keeps transformers from guessing any.
    The cache is off: with one, transformers ignores borders.
    """
    import torch

    if method == "varlen":
        # Over the flattened batch each row begins a document, whatever its number.
        borders = torch.ones_like(documents_BT, dtype=torch.bool)
        borders[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        starts = borders.flatten().nonzero().flatten()
        # FlashAttention's kernels read 32-bit bounds.
        bounds = torch.cat([starts, starts.new_tensor([documents_BT.numel()])]).to(torch.int32)
        longest = int((bounds[1:] - bounds[:-1]).max())
        extra: dict[str, Any] = {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
            # A mask of ones is all seen, and keeps transformers from guessing borders in the positions.
            "attention_mask": torch.ones_like(documents_BT),
        }
    elif method == "mask":
        same = documents_BT[:, :, None] == documents_BT[:, None, :]
        extra = {"attention_mask": same.tril()[:, None]}
    elif method == "native":
        jumps = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
        if not torch.equal(jumps, documents_BT[:, 1:] != documents_BT[:, :-1]):
            raise UsageError(
                "positions do not restart exactly where documents begin, so transformers would see other borders",
                hint="use packing.method varlen or mask, or positions that restart",
            )
        extra = {}
    elif method == "none":
        extra = {"attention_mask": torch.ones_like(documents_BT)}
    else:
        raise UsageError(f"packing method {method!r} is not known", hint="use varlen, mask, native or none")
    return {"position_ids": positions_BT, "use_cache": False, **extra}


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
