"""Samples to micro-batches: rows of equal length together, shared out over the ranks, none left without work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from ropewalk.training.data.mixture import Sample


@dataclass(frozen=True)
class StepBatch:
    """What one optimiser step trains on this rank: the micro-batches, all tokens of the step, the documents in it."""

    micro: list[dict[str, torch.Tensor]]
    num_tokens: int
    names: tuple[str, ...]


def make_step(samples: Sequence[Sample], micro_tokens: int, rank: int, world: int) -> StepBatch:
    """Micro-batches of at most `micro_tokens` tokens (one row at least), the same number on every rank.

    Rows of one length are dealt out in turn. Where they do not divide by the number of ranks, a rank without a row of
    its own repeats one with zero weight, so that collective calls stay in step.
    """
    micro: list[dict[str, torch.Tensor]] = []
    for length, group in groupby(samples, key=len):
        rows = list(group)
        share = -(-len(rows) // world)
        mine = [
            (rows[rank + number * world], True)
            if rank + number * world < len(rows)
            else (rows[rank % len(rows)], False)
            for number in range(share)
        ]
        size = max(1, micro_tokens // length)
        micro += [_stack(mine[start : start + size]) for start in range(0, len(mine), size)]
    names = tuple(dict.fromkeys(name for sample in samples for name in sample.names))
    return StepBatch(micro, sum(len(sample) for sample in samples), names)


def _stack(rows: Sequence[tuple[Sample, bool]]) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(np.stack([sample.ids for sample, _ in rows]))
    weights = torch.from_numpy(np.stack([sample.weights * counted for sample, counted in rows]))
    documents = torch.from_numpy(np.stack([sample.documents for sample, _ in rows]))
    labels = ids.masked_fill(weights == 0, -100)
    batch = {"input_ids": ids, "labels": labels, "documents": documents}
    # Labels of -100 already leave out what has no weight: weights are only carried where they say more than that.
    if bool(((weights != 0) & (weights != 1)).any()):
        batch["weights"] = weights
    return batch
