"""A constant for each head's logits, written into the weights that make its queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import UsageError


@torch.no_grad()
def fold_into(module: Any, multipliers_H: Tensor) -> None:
    """Multiply the queries of head h, and so its logits, by `multipliers_H[h]`, in place.

    Where queries are normalised after their projection the norm's gain takes the constant: exact if the gain is per
    head, or if all heads share one constant. Otherwise the last projection's rows take it (q_proj, q_b_proj of latent
    attention, the query rows of a fused qkv_proj or query_key_value).

    Rows are rounded to the weights' own type.
    """
    heads = len(multipliers_H)
    for name in ("q_norm", "q_layernorm", "query_layernorm"):
        if _is_module(module, name):
            _fold_norm(getattr(module, name), multipliers_H, module.head_dim)
            return
    for name in ("q_b_proj", "q_proj"):
        if _is_module(module, name):
            _scale_rows(getattr(module, name), multipliers_H, slice(None))
            return
    if _is_module(module, "qkv_proj"):
        rows = heads * module.head_dim
        _scale_rows(module.qkv_proj, multipliers_H, slice(0, rows))
        return
    fused = getattr(module, "query_key_value", None)
    if _is_module(module, "query_key_value") and fused.out_features == 3 * heads * module.head_size:
        _scale_interleaved(module.query_key_value, multipliers_H)
        return
    raise UsageError(
        f"{type(module).__name__} makes its queries in a way that no constant can be folded into",
        hint="keep the temperature applied instead of folding it",
    )


def _is_module(module: Any, name: str) -> bool:
    found = getattr(module, name, None)
    return isinstance(found, nn.Module) and not isinstance(found, nn.Identity)


def _fold_norm(norm: Any, multipliers_H: Tensor, head_dim: int) -> None:
    gain = getattr(norm, "weight", None)
    if gain is None:
        raise UsageError("the query norm has no gain to fold into", hint="keep the temperature applied")
    heads = len(multipliers_H)
    if gain.ndim == 1 and gain.numel() == heads * head_dim:
        factors = multipliers_H.repeat_interleave(head_dim)
    elif gain.ndim == 2 and gain.shape[0] == heads:
        factors = multipliers_H[:, None]
    elif bool((multipliers_H == multipliers_H[0]).all()):
        factors = multipliers_H[:1]
    else:
        raise UsageError(
            "all heads share one query norm, so different constants cannot be folded into its gain",
            hint="use a constant temperature, or keep this one applied",
        )
    factors = factors.to(gain.device, torch.float64)
    old = gain.double()
    bias = getattr(norm, "bias", None)
    if bias is not None:
        bias.copy_(bias.double() * factors)
    gain.copy_(old * factors if not _adds_one(norm) else (1 + old) * factors - 1)


def _adds_one(norm: Any) -> bool:
    """Whether the norm multiplies by 1 + gain (as Gemma's): a gain of zero then gives something."""
    gain = norm.weight
    kept = gain.detach().clone()
    try:
        gain.zero_()
        ones = torch.arange(1, gain.numel() + 1, dtype=gain.dtype, device=gain.device).view(gain.shape)
        return bool(norm(ones).abs().sum() > 0)
    finally:
        gain.copy_(kept)


def _scale_rows(layer: nn.Linear, multipliers_H: Tensor, rows: slice) -> None:
    for tensor in (layer.weight, layer.bias):
        if tensor is None:
            continue
        part = tensor[rows]
        factors = multipliers_H.repeat_interleave(part.shape[0] // len(multipliers_H)).to(part.device)
        part.copy_(part.double() * (factors[:, None] if part.ndim == 2 else factors))


def _scale_interleaved(layer: nn.Linear, multipliers_H: Tensor) -> None:
    """GPT-NeoX keeps query, key and value of one head together: rows (H, 3, D)."""
    for tensor in (layer.weight, layer.bias):
        if tensor is None:
            continue
        by_head = tensor.view(len(multipliers_H), 3, -1, *tensor.shape[1:])
        queries = by_head[:, 0]
        factors = multipliers_H.to(tensor.device).view(-1, *[1] * (queries.ndim - 1))
        queries.copy_(queries.double() * factors)
