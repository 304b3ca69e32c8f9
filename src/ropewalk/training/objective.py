"""The loss of one micro-batch, as a sum, with what it is to be divided by. The model's own forward computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ropewalk.attention.sharing import Sharing

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
    # DDP keeps the model in `module`.
    config = getattr(getattr(model, "module", model), "config", None)
    coefficient = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
    # The router's loss is a mean over tokens: times their weight it is a sum, as the rest of the loss is.
    return output.loss + auxiliary * coefficient * weight


@torch.no_grad()
def plain_loss(
    model: Any, input_ids: torch.Tensor, targets: torch.Tensor, sharing: Sharing | None = None
) -> float:
    """The sum of the losses of rows of text as they are, without options, for an evaluation."""
    if sharing is None or input_ids.shape[1] % sharing.multiple_of:
        # Rows that do not divide into equal parts are computed whole, by every process of the group alike.
        return float(model(input_ids=input_ids, target_ids=targets).loss)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    with sharing.rows(torch.zeros_like(input_ids)):
        part = model(
            input_ids=sharing.slice(input_ids),
            target_ids=sharing.slice(targets),
            position_ids=sharing.slice(positions),
            # Without a mask transformers would take jumps between the positions of a part for borders of documents.
            attention_mask=sharing.slice(torch.ones_like(input_ids)),
            use_cache=False,
        ).loss.double()
    torch.distributed.all_reduce(part, group=sharing.group)
    return float(part)


def shared_batch(sharing: Sharing, batch: Batch) -> Batch:
    """This process's tokens of a transformed micro-batch; `row_documents` keeps the documents of the whole rows."""
    part = {name: sharing.slice(tensor) for name, tensor in batch.items()}
    # Borders are looked up in the whole row: what the model itself gets has none.
    return part | {"documents": torch.zeros_like(part["documents"]), "row_documents": batch["documents"]}
