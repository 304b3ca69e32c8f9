"""The recipe's own evaluation: the mean loss on fixed held-out tokens at each length."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ropewalk.attention.sharing import Sharing
from ropewalk.training.data.sources import documents_of
from ropewalk.training.data.streams import Documents, DocumentStream
from ropewalk.training.objective import plain_loss
from ropewalk.training.recipe.recipe import EvaluationPart


class HeldOut:
    """Called as `(model, step)`: {"loss": the mean over the lengths, "loss@512": ...}, in nats per token."""

    def __init__(
        self, part: EvaluationPart, tokenizer: Any, longest: int, sharing: Sharing | None = None
    ) -> None:
        self.sharing = sharing
        if part.source is None:
            from ropewalk.text.corpus import held_out_documents

            documents = [(item.name, item.text) for item in held_out_documents()]
        else:
            documents = documents_of(part.source)
        texts = Documents(documents, tokenizer)
        self.rows: dict[int, torch.Tensor] = {}
        for length in part.lengths or [longest]:
            stream = DocumentStream(texts, np.arange(len(texts)), (0, 3, length))
            rows = max(1, part.tokens // length)
            self.rows[length] = torch.from_numpy(np.stack([stream.take(length).ids for _ in range(rows)]))

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        device = next(model.parameters()).device
        found = {}
        for length, rows in self.rows.items():
            size = max(1, 8192 // length)
            total = sum(plain_loss(model, piece.to(device), self.sharing) for piece in rows.split(size))
            found[f"loss@{length}"] = total / (rows.shape[0] * (length - 1))
        return {"loss": sum(found.values()) / len(found)} | found
