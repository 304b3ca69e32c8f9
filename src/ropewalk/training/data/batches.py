"""Samples to micro-batches: rows of equal length together, shared out over the ranks, none left without work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from ropewalk.training.data.streams import Sample


@dataclass(frozen=True)
class StepBatch:
    """What one optimiser step trains on this rank: the micro-batches, all tokens of the step, the documents in it."""

    micro: list[dict[str, torch.Tensor]]
    num_tokens: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Numbered:
    """A row with its number in the step, and whether it counts on this rank."""

    number: int
    sample: Sample
    counted: bool


def make_step(samples: Sequence[Sample], micro_tokens: int, rank: int, world: int) -> StepBatch:
    """Micro-batches of at most `micro_tokens` tokens (one row at least), the same number on every rank.

    Rows of one length are dealt out in turn. Where they do not divide by the number of ranks, a rank without a row of
    its own repeats one with zero weight, so that collective calls stay in step.
    """
    micro: list[dict[str, torch.Tensor]] = []
    # groupby joins neighbours only: the curriculum gives the rows of a step sorted by length.
    for length, group in groupby(enumerate(samples), key=lambda item: len(item[1])):
        rows = [Numbered(number, sample, True) for number, sample in group]
        share = -(-len(rows) // world)
        mine = [
            rows[rank + turn * world]
            if rank + turn * world < len(rows)
            else replace(rows[rank % len(rows)], counted=False)
            for turn in range(share)
        ]
        size = max(1, micro_tokens // length)
        micro += [_stack(mine[start : start + size]) for start in range(0, len(mine), size)]
    names = tuple(dict.fromkeys(name for sample in samples for name in sample.names))
    return StepBatch(micro, sum(len(sample) for sample in samples), names)


def _stack(rows: Sequence[Numbered]) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(np.stack([row.sample.ids for row in rows]))
    weights = torch.from_numpy(np.stack([row.sample.weights * row.counted for row in rows]))
    documents = torch.from_numpy(np.stack([row.sample.documents for row in rows]))
    labels = ids.masked_fill(weights == 0, -100)
    numbers = torch.tensor([row.number for row in rows])
    batch = {"input_ids": ids, "labels": labels, "documents": documents, "rows": numbers}
    # Labels of -100 already leave out what has no weight: weights are only carried where they say more than that.
    if bool(((weights != 0) & (weights != 1)).any()):
        batch["weights"] = weights
    return batch
