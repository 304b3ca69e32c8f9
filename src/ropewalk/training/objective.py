"""The loss of one micro-batch, as a sum, with what it is to be divided by. The model's own forward computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ropewalk.training.losses import shift_labels

Batch = dict[str, torch.Tensor]


def target_weight(batch: Batch) -> torch.Tensor:
    """The sum of the weights of all predicted tokens of a transformed micro-batch."""
    return batch["target_weights"].sum()


def summed_loss(model: Any, inputs: Mapping[str, Any], weight: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the tokens' losses in nats; a router's loss joins with its own coefficient."""
    output = model(**inputs)
    auxiliary = getattr(output, "aux_loss", None)
    if auxiliary is None:
        return output.loss
    return output.loss + auxiliary * _router_coefficient(model) * weight


@torch.no_grad()
def plain_loss(model: Any, input_ids: torch.Tensor) -> float:
    """The sum of the losses of rows of text as they are, without options, for an evaluation."""
    return float(model(input_ids=input_ids, target_ids=shift_labels(input_ids)).loss)


def _router_coefficient(model: Any) -> float:
    config = getattr(getattr(model, "module", model), "config", None)
    return float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
