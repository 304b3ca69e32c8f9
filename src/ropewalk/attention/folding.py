"""A constant for each head's logits, written into the weights that make its queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ropewalk.errors import UsageError

_NORMS = ("q_norm", "q_layernorm", "query_layernorm")
_PROJECTIONS = ("q_b_proj", "q_proj")


@torch.no_grad()
def fold_into(module: Any, multipliers_H: Tensor) -> None:
    """Multiply the queries of head h, and so its logits, by `multipliers_H[h]`, in place."""
    tensors = dict(module.named_parameters())
    for name, folded in folded_tensors(module, tensors, multipliers_H).items():
        tensors[name].copy_(folded)


@torch.no_grad()
def folded_tensors(module: Any, tensors: Mapping[str, Tensor], multipliers_H: Tensor) -> dict[str, Tensor]:
    """New values of those of a module's `tensors` (by their names in it) that take the constants; nothing is changed.

    Where queries are normalised after their projection the norm's gain takes the constant: exact if the gain is per
    head, or if all heads share one constant. Otherwise the last projection's rows take it (q_proj, q_b_proj of latent
    attention, the query rows of a fused qkv_proj or query_key_value). Rows are rounded to the weights' own type.
    """
    multipliers_H = multipliers_H.double().cpu()
    # As Llama 4's: a norm behind the projection undoes a constant in it, and has no gain to take one.
    if _is_module(module, "qk_norm"):
        raise _cannot_fold(module)
    for name in _NORMS:
        if _is_module(module, name):
            return _norm(name, getattr(module, name), tensors, multipliers_H, module.head_dim)
    for name in _PROJECTIONS:
        if _is_module(module, name):
            return {key: _rows(tensors[key], multipliers_H) for key in _weight_and_bias(name, tensors)}
    if _is_module(module, "qkv_proj"):
        return {
            key: _first_rows(tensors[key], multipliers_H, len(multipliers_H) * module.head_dim)
            for key in _weight_and_bias("qkv_proj", tensors)
        }
    fused = tensors.get("query_key_value.weight")
    if fused is not None and fused.shape[0] == 3 * len(multipliers_H) * module.head_size:
        names = _weight_and_bias("query_key_value", tensors)
        return {key: _interleaved(tensors[key], multipliers_H) for key in names}
    raise _cannot_fold(module)


def _cannot_fold(module: Any) -> UsageError:
    return UsageError(
        f"{type(module).__name__} makes its queries in a way that no constant can be folded into",
        hint="keep the temperature applied instead of folding it",
    )


def _is_module(module: Any, name: str) -> bool:
    found = getattr(module, name, None)
    return isinstance(found, nn.Module) and not isinstance(found, nn.Identity)


def _weight_and_bias(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    return [key for key in (f"{name}.weight", f"{name}.bias") if tensors.get(key) is not None]


def _times(tensor: Tensor, factors: Tensor) -> Tensor:
    shaped = factors.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
    # Rounded once, at the end: a product in half precision would round the constant as well.
    return (tensor.double() * shaped).to(tensor.dtype)


def _rows(tensor: Tensor, multipliers_H: Tensor) -> Tensor:
    return _times(tensor, multipliers_H.repeat_interleave(tensor.shape[0] // len(multipliers_H)))


def _first_rows(tensor: Tensor, multipliers_H: Tensor, count: int) -> Tensor:
    return torch.cat([_rows(tensor[:count], multipliers_H), tensor[count:]])


def _interleaved(tensor: Tensor, multipliers_H: Tensor) -> Tensor:
    """GPT-NeoX keeps query, key and value of one head together: rows (H, 3, D)."""
    by_head = tensor.view(len(multipliers_H), 3, -1, *tensor.shape[1:]).clone()
    by_head[:, 0] = _times(by_head[:, 0], multipliers_H)
    return by_head.view(tensor.shape)


def _norm(
    name: str, norm: Any, tensors: Mapping[str, Tensor], multipliers_H: Tensor, head_dim: int
) -> dict[str, Tensor]:
    gain = tensors.get(f"{name}.weight")
    if gain is None:
        raise UsageError("the query norm has no gain to fold into", hint="keep the temperature applied")
    heads = len(multipliers_H)
    if gain.ndim == 1 and gain.numel() == heads * head_dim:
        factors = multipliers_H.repeat_interleave(head_dim)
    elif gain.ndim == 2 and gain.shape[0] == heads:
        factors = multipliers_H
    elif bool((multipliers_H == multipliers_H[0]).all()):
        factors = multipliers_H[:1].expand(gain.shape[0])
    else:
        raise UsageError(
            "all heads share one query norm, so different constants cannot be folded into its gain",
            hint="use a constant temperature, or keep this one applied",
        )
    # A norm that multiplies by 1 + gain takes c * (1 + gain) as a gain of c * (1 + gain) - 1.
    one = 1.0 if _adds_one(norm, gain) else 0.0
    folded = {f"{name}.weight": (_times(gain.double() + one, factors) - one).to(gain.dtype)}
    bias = tensors.get(f"{name}.bias")
    if bias is not None:
        folded[f"{name}.bias"] = _times(bias, factors)
    return folded


def _adds_one(norm: nn.Module, gain: Tensor) -> bool:
    """Whether the norm multiplies by 1 + gain (as Gemma's): a gain of zero then gives something."""
    ones = torch.arange(1, gain.numel() + 1, dtype=torch.float32, device=gain.device).view(gain.shape)
    zero = {name: torch.zeros_like(gain) for name, _ in norm.named_parameters(recurse=False)}
    return bool(functional_call(norm, zero, (ones,)).abs().sum() > 0)
