"""The loss of one micro-batch, as a sum, with what it is to be divided by.

Axes: B rows, T tokens, V vocabulary. `weights_BT[b, t]` weighs the prediction of token t from the tokens before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

Batch = dict[str, torch.Tensor]
IGNORE = -100
MODEL_INPUTS = ("input_ids", "position_ids", "attention_mask")


def target_weight(batch: Batch) -> torch.Tensor:
    """The sum of the weights of all predicted tokens of a micro-batch: the first token of a row is not predicted."""
    if "weights" in batch:
        return batch["weights"][:, 1:].sum()
    return (batch["labels"][:, 1:] != IGNORE).sum().to(torch.float32)


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """sum over b, t of weights[b, t] * -log p(token t | tokens before t), in nats."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    output = model(**inputs, use_cache=False)
    logits_BTV = output.logits[:, :-1]
    flat = logits_BTV.reshape(-1, logits_BTV.shape[-1]).float()
    labels = batch["labels"][:, 1:].reshape(-1)
    if "weights" in batch:
        losses = cross_entropy(flat, labels, ignore_index=IGNORE, reduction="none")
        total = (losses * batch["weights"][:, 1:].reshape(-1)).sum()
    else:
        total = cross_entropy(flat, labels, ignore_index=IGNORE, reduction="sum")
    auxiliary = getattr(output, "aux_loss", None)
    if auxiliary is not None:
        total = total + auxiliary * _router_coefficient(model) * target_weight(batch)
    return total


def _router_coefficient(model: Any) -> float:
    config = getattr(getattr(model, "module", model), "config", None)
    return float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
