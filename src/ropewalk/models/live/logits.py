"""The loss from logits that nobody needs afterwards, for evaluation and training alike."""

from __future__ import annotations

from torch import Tensor


def losses_in_place(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(-log softmax(logits)[target], sums of exponentials): the logits become exp(logit - largest of its row).

    A second array of the size of the logits would be the largest in memory. Nothing of this is for autograd.
    """
    chosen = logits.gather(-1, targets[..., None].to(logits.device)).squeeze(-1)
    largest = logits.amax(dim=-1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=-1)
    return total.log() + largest.squeeze(-1) - chosen, total
