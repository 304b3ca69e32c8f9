"""Token-level regularisation: which tokens carry the loss, and how much.

Labels are shifted (they stand beside the state that predicts them). "Context" of a token is the number of tokens of
its own document that the predicting state sees before its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ropewalk.errors import UsageError
from ropewalk.training.parts.loss.losses import IGNORE
from ropewalk.training.parts.weighting.options import LongTokenWeight, ShapeWeight, WeightingOptions

# (inputs, labels, documents, positions), each (rows, tokens) -> losses of the same shape, without gradients
LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def token_weights(
    options: WeightingOptions,
    *,
    labels_BT: Tensor,
    inputs_BT: Tensor | None = None,
    documents_BT: Tensor | None = None,
    losses_BT: Tensor | None = None,
    cropped_losses_BT: Tensor | None = None,
    base_BT: Tensor | None = None,
) -> Tensor:
    """The weight of each token's loss, float32 (B, T): the product of all asked-for parts, 0 where nothing is scored.

    A step divides by the sum over all of its micro-batches, so that weights of mean 1 or 2 train alike.

    `losses_BT` (the model's own loss now) is needed for easy and long tokens, `cropped_losses_BT` (see
    `cropped_losses`) for long tokens, `inputs_BT` for anything by distance. `base_BT` are weights that the
    data brings, one more factor.

    >>> options = WeightingOptions(near={"tokens": 2})
    >>> token_weights(options, labels_BT=torch.tensor([[5, 6, 7, 8]])).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    scored = labels_BT != IGNORE
    weights = torch.ones(labels_BT.shape, dtype=torch.float32, device=labels_BT.device)
    if options.shape is not None:
        reach = _reach(options.shape.by, labels_BT, inputs_BT, documents_BT)
        weights = weights * shape_weight(options.shape, reach)
    if options.near is not None:
        reach = _reach(options.near.by, labels_BT, inputs_BT, documents_BT)
        weights = weights * (reach >= options.near.tokens)
    if options.needs_losses:
        weights = weights * _loss_weight(options, scored, losses_BT, cropped_losses_BT)
    return weights * (scored if base_BT is None else scored * base_BT)


def context_of(documents_BT: Tensor) -> Tensor:
    """How many tokens of its own document stand before each token, int64 (B, T).

    >>> context_of(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
    [[0, 1, 0, 1, 2]]
    """
    index = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    first = torch.ones_like(documents_BT, dtype=torch.bool)
    first[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return index - torch.where(first, index, 0).cummax(dim=1).values


def repeat_distance(inputs_BT: Tensor, labels_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """How far back the same step (this input followed by this label) last occurred in the document; 0 for never.

    Such a token could be copied from that far, so the distance says how far attention would have to reach.

    >>> repeat_distance(torch.tensor([[1, 2, 3, 1, 2]]), torch.tensor([[2, 3, 1, 2, 3]])).tolist()
    [[0, 0, 0, 3, 3]]
    """
    rows, length = inputs_BT.shape
    documents_BT = torch.zeros_like(inputs_BT) if documents_BT is None else documents_BT
    _, steps = torch.unique(torch.stack([inputs_BT, labels_BT], -1).view(-1, 2), dim=0, return_inverse=True)
    row = torch.arange(rows, device=inputs_BT.device)[:, None].expand_as(inputs_BT)
    # One number for row, document and step, equal only for the same step in the same document.
    place = row * (int(documents_BT.max()) + 2) + documents_BT + 1
    key = place.reshape(-1) * (int(steps.max()) + 1) + steps.view(-1)
    # Stable: equal keys stay in the order of the row, so that the neighbour before is the last occurrence.
    order = torch.argsort(key, stable=True)
    same = key[order][1:] == key[order][:-1]
    distance = torch.zeros_like(key)
    distance[order[1:]] = torch.where(same, order[1:] - order[:-1], 0)
    return distance.view(rows, length)


def shape_weight(shape: ShapeWeight, reach_BT: Tensor) -> Tensor:
    """Power, ramp or bands of a reach x in tokens; `span` defaults to the row's length, beyond it the weight stays.

    >>> shape_weight(ShapeWeight(shape="ramp", low=0.5, high=1.5, span=2), torch.tensor([[0, 1, 2, 3]])).tolist()
    [[0.5, 1.0, 1.5, 1.5]]
    """
    span = shape.span if shape.span is not None else reach_BT.shape[1]
    x = reach_BT.to(torch.float32)
    if shape.shape == "power":
        return ((x + 1) / span).clamp(max=1.0) ** shape.exponent
    if shape.shape == "ramp":
        return shape.low + (shape.high - shape.low) * (x / span).clamp(max=1.0)
    weights = torch.ones_like(x)
    for start, weight in shape.bands:
        weights = torch.where(reach_BT >= start, weight, weights)
    return weights


@torch.no_grad()
def cropped_losses(
    losses: LossFunction,
    options: LongTokenWeight,
    *,
    inputs_BT: Tensor,
    labels_BT: Tensor,
    documents_BT: Tensor,
    positions_BT: Tensor,
) -> Tensor:
    """The loss of each token when only the last `context` .. `context + stride - 1` tokens are seen, (B, T).

    Windows of context + stride tokens start every `stride` (default `context`) tokens; each gives the losses of its
    last `stride` tokens, the first one of all. They run in groups that are together no longer than the batch.
    """
    rows, length = inputs_BT.shape
    stride = options.stride if options.stride is not None else options.context
    window = options.context + stride
    everything = (inputs_BT, labels_BT, documents_BT, positions_BT)
    if length <= window:
        return losses(*everything)
    starts = [*range(0, length - window, stride), length - window]
    windows = [torch.cat([item[:, start : start + window] for start in starts]) for item in everything]
    group = max(1, rows * length // window)
    pieces = [
        losses(*(item[at : at + group] for item in windows)) for at in range(0, rows * len(starts), group)
    ]
    found = torch.cat(pieces).view(len(starts), rows, window)
    result = found.new_zeros(rows, length)
    for index, start in enumerate(starts):
        skip = 0 if index == 0 else options.context
        result[:, start + skip : start + window] = found[index, :, skip:]
    return result


def _reach(
    by: Literal["position", "distance"],
    labels_BT: Tensor,
    inputs_BT: Tensor | None,
    documents_BT: Tensor | None,
) -> Tensor:
    documents_BT = torch.zeros_like(labels_BT) if documents_BT is None else documents_BT
    if by == "position":
        return context_of(documents_BT)
    if inputs_BT is None:
        raise UsageError("weighting by distance needs the inputs", hint="pass inputs_BT to token_weights")
    return repeat_distance(inputs_BT, labels_BT, documents_BT)


def _loss_weight(
    options: WeightingOptions, scored: Tensor, losses_BT: Tensor | None, cropped_losses_BT: Tensor | None
) -> Tensor:
    if losses_BT is None:
        raise UsageError(
            "easy and long tokens are known by their loss", hint="pass losses_BT to token_weights"
        )
    weights = torch.ones_like(losses_BT, dtype=torch.float32)
    if options.long_tokens is not None:
        if cropped_losses_BT is None:
            raise UsageError(
                "long tokens need their loss in a cropped context", hint="pass cropped_losses_BT"
            )
        # exp overflows float32 beyond 88.
        gain = (cropped_losses_BT - losses_BT).to(torch.float32).clamp(max=50.0)
        weights = gain.exp().clamp(options.long_tokens.floor, options.long_tokens.ceiling)
    if options.easy is not None:
        weights = weights * (losses_BT > _easy_bound(options, scored, losses_BT))
    return weights


def _easy_bound(options: WeightingOptions, scored: Tensor, losses_BT: Tensor) -> float:
    assert options.easy is not None
    if options.easy.below is not None:
        return options.easy.below
    assert options.easy.quantile is not None
    known = losses_BT[scored].float().sort().values
    return float(known[int(options.easy.quantile * (len(known) - 1))]) if len(known) else 0.0
