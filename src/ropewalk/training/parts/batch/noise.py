"""Noise in the inputs: the model learns not to lean on each single token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ropewalk.training.parts.part import Part, part
from ropewalk.training.vocabulary import Count, OpenShare

if TYPE_CHECKING:
    from torch import Tensor


@part
class InputNoise(Part):
    """A share of the input tokens replaced, in spans, by one token or by random ones; the labels stay.

    Spans may touch or overlap, so the share that is really replaced is at most `share`. The first token of a row stays.
    """

    name = "input-noise"

    share: OpenShare
    kind: Literal["token", "random"] = "random"
    token_id: Annotated[int, Field(ge=0)] | None = None
    span: Count = 1

    @model_validator(mode="after")
    def _token(self) -> Self:
        if (self.kind == "token") != (self.token_id is not None):
            raise ValueError("kind: token needs token_id, and only that kind takes it")
        return self

    def change(
        self, batch: dict[str, Tensor], *, rngs: Sequence[np.random.Generator], vocabulary_size: int
    ) -> dict[str, Tensor]:
        """The inputs with noise in them."""
        import torch

        inputs = batch["input_ids"]
        rows, length = inputs.shape
        count = round(self.share * (length - 1) / self.span)
        if count == 0:
            return batch
        places = max(1, length - self.span)
        starts = np.stack([1 + rng.choice(places, size=min(count, places), replace=False) for rng in rngs])
        # Wider than the row, because a span may be longer than it.
        hit = np.zeros((rows, length + self.span), dtype=bool)
        for offset in range(self.span):
            np.put_along_axis(hit, starts + offset, True, axis=1)
        if self.kind == "token":
            noise = np.full((rows, length), self.token_id, dtype=np.int64)
        else:
            noise = np.stack([rng.integers(0, vocabulary_size, size=length, dtype=np.int64) for rng in rngs])
        replaced = torch.from_numpy(hit[:, :length]).to(inputs.device)
        return batch | {"input_ids": torch.where(replaced, torch.from_numpy(noise).to(inputs.device), inputs)}
