"""Causal attention of a chunk to a long cache without a mask, on a CPU.

The stock path builds a (chunk, cache) mask, which costs memory and slows the kernel by a third. A chunk's attention
is the attention to everything before it (no mask needed) and the causal attention inside it; the two are joined
exactly by their log-sum-exp: w = sigmoid(lse_past - lse_own), out = own + w * (past - own).

Axes: B rows, H heads, K key-value heads, T chunk tokens, D head width.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask


def unmasked(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """No mask where the pattern is plain causal; the stock mask everywhere else (windows, chunks, padding)."""
    plain = (
        not args
        and kwargs.get("mask_function") is causal_mask_function
        and kwargs.get("attention_mask") is None
        and kwargs.get("local_size") is None
        and kwargs.get("allow_is_causal_skip", True)
    )
    return None if plain else sdpa_mask(*args, **kwargs)


def split_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa, but for a chunk behind a cache without a mask: on a CPU joined from two kernels."""
    tokens, total = query.shape[2], key.shape[2]
    plain = (
        query.device.type == "cpu"
        and attention_mask is None
        and kwargs.get("position_bias") is None
        and not kwargs.get("dropout")
    )
    causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    # The values of latent attention are narrower than its keys, which the kernel does not take.
    same_width = query.shape[-1] == value.shape[-1]
    if not (plain and causal and same_width and 1 < tokens < total):
        if attention_mask is None and causal and 1 < tokens < total:
            # The stock path would align an absent mask with the first key; a chunk stands at the end of the cache.
            attention_mask = torch.ones(tokens, total, dtype=torch.bool, device=query.device).tril(
                total - tokens
            )
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    return joined(query, key, value, kwargs.get("scaling")).transpose(1, 2).contiguous(), None


def joined(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    rows, heads, tokens, width = query.shape
    groups, past = heads // key.shape[1], key.shape[2] - tokens
    own_keys = repeat_kv(key[:, :, past:], groups)
    own_values = repeat_kv(value[:, :, past:], groups)
    own, own_lse = kernel(query, own_keys, own_values, 0.0, True, scale=scale)
    # Queries of one group see the same past: as more rows of one head they need no repeated copy of the cache.
    grouped = query.reshape(rows, heads // groups, groups * tokens, width)
    far, far_lse = kernel(grouped, key[:, :, :past], value[:, :, :past], 0.0, False, scale=scale)
    far, far_lse = far.reshape(own.shape), far_lse.reshape(own_lse.shape)
    weight = torch.sigmoid(far_lse - own_lse).unsqueeze(-1).to(own.dtype)
    return torch.lerp(own, far, weight)


def splittable(model: Any, decoder: Any) -> bool:
    """Whether every attention of this model goes through the attention interface and asks for nothing but its name.

    Code that compares the name itself, or that picks keys by their own scores, is left to the stock path.
    """
    if next(model.parameters()).device.type != "cpu":
        return False
    try:
        source = inspect.getsource(sys.modules[type(decoder).__module__])
    except (OSError, TypeError, KeyError):
        return False
    own_ways = ("_attn_implementation ==", "index_topk")
    return "ALL_ATTENTION_FUNCTIONS" in source and not any(word in source for word in own_ways)
