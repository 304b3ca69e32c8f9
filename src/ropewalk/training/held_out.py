"""The recipe's own evaluation: the same held-out tokens at every length and every time, and the cropped control.

A text of the longest length is cut into rows of each shorter one: every figure is a reading of the same tokens, so a
difference between two lengths is one of context, and one between two steps is the training's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.sharing import Sharing
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.corpus import Document, held_out_documents
from ropewalk.text.segments import cut
from ropewalk.training.data.sources import documents_of
from ropewalk.training.objective import plain_loss
from ropewalk.training.parts.loss.losses import IGNORE, shift_labels
from ropewalk.training.recipe.recipe import EvaluationPart

# An interval wants at least this many texts.
FEWEST = 4
# Tokens in one forward: short rows go together, a longer one alone.
_AT_ONCE = 8192


class HeldOut:
    """Called as `(model, step)`; in nats per token, "ci" being half of a 95 % interval over the texts:

    {"loss": mean over the lengths, "loss@512": ..., "ci@512": ..., "cropped@4096": ..., "cropped_ci@4096": ...}.
    """

    def __init__(
        self,
        part: EvaluationPart,
        tokenizer: Any,
        longest: int,
        *,
        window: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        self.sharing = sharing
        documents: Sequence[Document] = (
            held_out_documents()
            if part.source is None
            else [Document(name, text) for name, text in documents_of(part.source)]
        )
        lengths = part.lengths or [longest]
        self.longest = max(lengths)
        try:
            texts = cut(documents, tokenizer, self.longest, limit=max(FEWEST, part.tokens // self.longest))
        except RopewalkError as error:
            raise UsageError(
                f"evaluation: {error.message}",
                hint="give evaluation.source more text, or shorter evaluation.lengths",
            ) from error
        self.names, self.joined, self.owners = texts.documents, texts.joined, texts.owners
        self.texts = torch.from_numpy(np.stack([item.ids for item in texts.items]))
        self.rows = {length: self._cut(length) for length in lengths}
        # What the model would do with no more than its own window of the same text.
        self.window = window if 2 <= window < self.longest else 0

    def _cut(self, length: int) -> Tensor:
        """(texts * rows, length): each text in rows of a length; what is left over at its end is not read."""
        kept = self.longest // length * length
        return self.texts[:, :kept].reshape(-1, length)

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for length, rows in self.rows.items():
            found |= self._measured(f"loss@{length}", f"ci@{length}", model, rows, shift_labels(rows))
        mean = sum(found[f"loss@{length}"] for length in self.rows) / len(self.rows)
        if self.window:
            rows, targets = cropped_rows(self.texts, self.window)
            names = f"cropped@{self.longest}", f"cropped_ci@{self.longest}"
            found |= self._measured(*names, model, rows, targets)
        return {"loss": mean} | found

    def _measured(
        self, name: str, interval: str, model: Any, rows: Tensor, targets: Tensor
    ) -> dict[str, float]:
        """The mean over all scored tokens, and half of its 95 % interval, the texts being what varies."""
        found = self.by_text(model, rows, targets)
        mean = sum(loss for loss, _ in found) / sum(count for _, count in found)
        if len(found) < 2:
            return {name: mean}
        means = [loss / count for loss, count in found]
        return {name: mean, interval: 1.96 * float(np.std(means, ddof=1)) / math.sqrt(len(means))}

    def by_text(self, model: Any, rows: Tensor, targets: Tensor) -> list[tuple[float, int]]:
        """(sum of the losses, tokens scored) of each text, its rows standing together."""
        device = next(model.parameters()).device
        size = max(1, _AT_ONCE // rows.shape[1])
        share = len(rows) // len(self.texts)
        found = []
        for number in range(len(self.texts)):
            mine = slice(number * share, (number + 1) * share)
            pairs = zip(rows[mine].split(size), targets[mine].split(size), strict=True)
            loss = sum(plain_loss(model, ids.to(device), aim.to(device), self.sharing) for ids, aim in pairs)
            found.append((loss, int((targets[mine] != IGNORE).sum())))
        return found


def cropped_rows(texts_NT: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(rows, targets) in which every token of the texts is scored once, from no more than `window` tokens.

    Windows follow each other by half of their length, and each scores its second half; the first scores all.

    >>> rows, targets = cropped_rows(torch.arange(8)[None], 4)
    >>> rows.tolist(), targets.tolist()
    ([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]], [[1, 2, 3, -100], [-100, 4, 5, -100], [-100, 6, 7, -100]])
    """
    stride = window // 2
    length = texts_NT.shape[1]
    # The last window ends with the text, so it may overlap the one before it by more than half.
    starts = [*range(0, length - window, stride), length - window]
    rows, targets = [], []
    for text in texts_NT:
        # The next token of the text to be scored; the very first is not, since nothing predicts it.
        done = 1
        for start in starts:
            row = text[start : start + window]
            aim = shift_labels(row[None])[0]
            aim[: max(0, done - start - 1)] = IGNORE
            done = start + window
            rows.append(row)
            targets.append(aim)
    return torch.stack(rows), torch.stack(targets)
