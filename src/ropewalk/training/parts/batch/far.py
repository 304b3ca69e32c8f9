"""Far tokens left out: long distances at the cost of a short row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.training.parts.part import Part, part
from ropewalk.training.vocabulary import OpenShare, Tokens

if TYPE_CHECKING:
    from torch import Tensor


@part
class FarDrop(Part):
    """A share of the tokens more than `near` before the end left out of the row; the rest keep their positions.

    Labels are shifted already, so each still names the true next token. Every row loses the same number, and the first
    token always stays, since attention sinks live there.
    """

    name = "far-drop"
    moves_positions = True
    whole_rows = True

    share: OpenShare
    near: Tokens

    def change(
        self, batch: dict[str, Tensor], *, rngs: Sequence[np.random.Generator], vocabulary_size: int
    ) -> dict[str, Tensor]:
        """Rows with gaps; positions are among the tensors, so what stays keeps its place."""
        import torch

        shapes = {tuple(value.shape) for value in batch.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise UsageError(
                f"dropping far tokens met shapes {sorted(shapes)}",
                hint="give tensors of one shape (rows, tokens)",
            )
        rows, length = shapes.pop()
        far = length - self.near
        # One number for all rows, or they would not be one tensor afterwards.
        count = int(self.share * max(0, far - 1))
        if count == 0:
            return batch
        kept = np.stack(
            [np.sort(rng.choice(np.arange(1, far), size=far - 1 - count, replace=False)) for rng in rngs]
        )
        near = np.tile(np.arange(far, length), (rows, 1))
        index = np.concatenate([np.zeros((rows, 1), dtype=np.int64), kept, near], axis=1).astype(np.int64)
        return {
            name: value.gather(1, torch.from_numpy(index).to(value.device)) for name, value in batch.items()
        }
