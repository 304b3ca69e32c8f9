"""Models with a known answer: one that copies perfectly (within a window, if given), and one that knows nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig

VOCABULARY = 256


class ByteTokenizer:
    """One token a byte, with the few methods of a Hugging Face tokenizer that evaluation uses."""

    chat_template: str | None = None
    eos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Any, **options: Any) -> str:
        return bytes(int(token) for token in ids).decode("utf-8", errors="ignore")


class CopyModel(nn.Module):
    """Predicts what followed the longest earlier occurrence of the text's end, if that is `match` tokens or longer.

    `window` hides everything farther back than so many tokens. Where nothing matches, all words are equally likely.
    The words seen so far travel in the cache as keys of one head of width one, as in any cached model.
    """

    def __init__(self, window: int | None = None, match: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
        self.window, self.match = window, match
        self.tokens_read = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(
        self, input_ids: torch.Tensor, past_key_values: Any = None, **options: Any
    ) -> SimpleNamespace:
        self.tokens_read += input_ids.shape[1]
        words = input_ids.float()[:, None, :, None]
        if past_key_values is not None:
            words, _ = past_key_values.update(words, words, 0)
        seen = words[:, 0, :, 0].long()
        rows = [self._logits(row, input_ids.shape[1]) for row in seen]
        return SimpleNamespace(logits=torch.stack(rows), past_key_values=past_key_values)

    def _logits(self, seen: torch.Tensor, new: int) -> torch.Tensor:
        total = len(seen)
        places = torch.arange(total)
        run = torch.zeros(total, dtype=torch.long)
        logits = torch.zeros(new, VOCABULARY)
        first = total - new
        # run[j]: how many tokens up to and including j equal those up to and including i.
        for i in range(max(0, first - 64), total):
            shifted = torch.cat([torch.zeros(1, dtype=torch.long), run[:-1]])
            run = torch.where(seen == seen[i], shifted + 1, torch.zeros_like(run))
            if i < first:
                continue
            found = run.clone()
            found[i:] = 0
            if self.window is not None:
                found = torch.where(places - found + 1 > i - self.window, found, torch.zeros_like(found))
            if int(found.max()) >= self.match:
                # The latest of the longest matches.
                best = int((found == found.max()).nonzero().max())
                logits[i - first, seen[best + 1]] = 30.0
        return logits


class UniformModel(CopyModel):
    """Every word is equally likely, always."""

    def __init__(self) -> None:
        super().__init__(match=1 << 30)
