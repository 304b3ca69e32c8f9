"""Losses from logits, and what is said about a continuation. Axes: B rows, T tokens, V words."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ropewalk.errors import RopewalkError
from ropewalk.models.live.logits import losses_in_place


@dataclass(frozen=True)
class Scored:
    """A continuation under teacher forcing: log probability (natural) and greedy choice at each token."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    greedy: tuple[int, ...]

    @property
    def logprob(self) -> float:
        """Sum over the continuation."""
        return sum(self.logprobs)

    @property
    def exact(self) -> bool:
        """Whether greedy decoding would have written exactly this."""
        return self.tokens == self.greedy


def token_loss(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target], in float32."""
    logits_BTV = logits_BTV.float()
    chosen_BT = logits_BTV.gather(-1, targets_BT[..., None].to(logits_BTV.device)).squeeze(-1)
    return torch.logsumexp(logits_BTV, dim=-1) - chosen_BT


def token_loss_in_place(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """`token_loss` that spends the logits instead of making a second array of their size. Not for gradients."""
    # Half types are summed in float32, which is a second array in any case.
    if logits_BTV.dtype != torch.float32:
        return token_loss(logits_BTV, targets_BT)
    return losses_in_place(logits_BTV, targets_BT)[0]


def check_finite(values_BT: torch.Tensor, first_position: int) -> None:
    """Refuse what is no number at the position where it first occurs: a mean would only say that there was one."""
    finite_BT = torch.isfinite(values_BT)
    if bool(finite_BT.all()):
        return
    row, column = (int(index) for index in (~finite_BT).nonzero()[0])
    raise RopewalkError(
        f"the model's output at position {first_position + column} (row {row}) is not a finite number",
        hint="try --dtype float32 and --attn eager; if it stays, the weights or the scaling are broken",
    )
