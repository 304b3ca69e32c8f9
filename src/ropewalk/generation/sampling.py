"""The next token from logits: greedy, or drawn by temperature and nucleus from a stream of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ropewalk.errors import UsageError


class Sampler:
    """Chooses tokens for one row. Temperature 0 is greedy; otherwise the draw depends on the seed alone.

    `top_p` keeps the likeliest tokens whose probabilities reach it together, the one that crosses it included.
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        if not math.isfinite(temperature) or temperature < 0:
            raise UsageError(
                f"temperature={temperature} is not 0 or more", hint="0 is greedy, 1 the model's own"
            )
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p={top_p} is not in (0, 1]", hint="1 keeps every token")
        self.temperature, self.top_p = temperature, top_p
        # On the CPU and not the global one: a seed draws the same on every device, whatever else has drawn.
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits_V: Tensor) -> tuple[int, float]:
        """A token, and its log-probability under the model (temperature and nucleus left out)."""
        logs_V = logits_V.detach().float().cpu().log_softmax(-1)
        if self.temperature == 0:
            token = int(logs_V.argmax())
        else:
            token = int(torch.multinomial(self._shares(logs_V), 1, generator=self._generator))
        return token, float(logs_V[token])

    def _shares(self, logs_V: Tensor) -> Tensor:
        shares_V = (logs_V / self.temperature).softmax(-1)
        if self.top_p == 1.0:
            return shares_V
        sorted_V, order_V = shares_V.sort(descending=True, stable=True)
        # What stands before a token, not with it: so the one that crosses is kept, and the first always.
        kept_V = sorted_V.cumsum(-1) - sorted_V < self.top_p
        return torch.zeros_like(shares_V).scatter(0, order_V[kept_V], sorted_V[kept_V])
