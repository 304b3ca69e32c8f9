"""Attention with its log-sum-exp, so that parts of it over different keys can be put together exactly.

out = sum of softmax-weighted values over the keys of a part, lse = log of the sum of exponentials of its logits. Two
parts become one by w = sigmoid(lse_other - lse_one), out = one + w * (other - one). The kernels are torch's own: flash
on a CPU and for half types on CUDA, memory-efficient otherwise on CUDA, plain formulas elsewhere and for gradients.
Axes: B rows, H heads, G key-value heads, T queries, K keys, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits of one head that plain formulas hold at once.
_BLOCK = 1 << 21
Part = tuple[Tensor, Tensor]


def attend(
    query_BHTD: Tensor,
    key_BGKD: Tensor,
    value_BGKD: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask_TK: Tensor | None = None,
) -> Part:
    """Output (B, H, T, D) and lse (B, H, T) of one part. `causal` wants as many queries as keys.

    `mask_TK` is additive and broadcasts to (B, H, T, K). Without either every query sees every key.
    """
    gradients = torch.is_grad_enabled() and any(
        item.requires_grad for item in (query_BHTD, key_BGKD, value_BGKD)
    )
    # A GPU kernel's backward knows no gradient of the log-sum-exp, and merging parts needs it.
    if query_BHTD.device.type not in ("cpu", "cuda") or (gradients and query_BHTD.device.type != "cpu"):
        return _in_blocks(query_BHTD, key_BGKD, value_BGKD, scale, causal, mask_TK)
    if query_BHTD.shape[2] == 1 and mask_TK is None and query_BHTD.device.type == "cpu" and not gradients:
        return _one_query(query_BHTD, key_BGKD, value_BGKD, scale)
    width = value_BGKD.shape[-1]
    value_BGKD = _widened(value_BGKD, query_BHTD.shape[-1])
    rows, heads, tokens, wide = query_BHTD.shape
    kept = key_BGKD.shape[1]
    if not causal and mask_TK is None and heads != kept:
        # Queries of one group see the same keys: as more rows of one head they need no repeated copy of them.
        grouped = query_BHTD.reshape(rows, kept, heads // kept * tokens, wide)
        out, lse = _kernel(grouped, key_BGKD, value_BGKD, scale, causal, mask_TK)
        return out.reshape(rows, heads, tokens, wide)[..., :width], lse.reshape(rows, heads, tokens)
    key_BHKD, value_BHKD = (_repeated(item, heads // kept) for item in (key_BGKD, value_BGKD))
    out, lse = _kernel(query_BHTD, key_BHKD, value_BHKD, scale, causal, mask_TK)
    return out[..., :width], lse


def merge(one: Part, other: Part) -> Part:
    """Two parts over different keys as one."""
    # From the difference alone: exponentials of the two would overflow where logits are large.
    weight = torch.sigmoid(other[1] - one[1]).unsqueeze(-1).to(one[0].dtype)
    return torch.lerp(one[0], other[0], weight), torch.logaddexp(one[1], other[1])


def behind_a_past(query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, scale: float) -> Part:
    """Causal attention of the last queries of a text to all its keys: the last query sees the last key."""
    past = key_BGKD.shape[2] - query_BHTD.shape[2]
    own = attend(query_BHTD, key_BGKD[:, :, past:], value_BGKD[:, :, past:], scale, causal=True)
    if past == 0:
        return own
    return merge(own, attend(query_BHTD, key_BGKD[:, :, :past], value_BGKD[:, :, :past], scale))


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> Part:
    if query.device.type == "cpu":
        found: Part = _CpuFlash.apply(query, key, value, mask, causal, scale)
        return found
    if mask is None and query.dtype != torch.float32:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out, lse = flash(query, key, value, 0.0, causal, False, scale=scale)[:2]
        return out, lse
    if mask is not None:
        # The kernel reads biases in aligned rows.
        spare = -mask.shape[-1] % 16
        mask = torch.nn.functional.pad(mask.to(query.dtype), (0, spare))[..., : mask.shape[-1]]
        mask = mask.expand(*query.shape[:3], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    # True asks for the log-sum-exp, which comes padded to the kernel's own blocks.
    out, lse = efficient(query, key, value, mask, True, 0.0, causal, scale=scale)[:2]
    return out, lse[..., : query.shape[2]]


class _CpuFlash(torch.autograd.Function):
    """torch's flash attention on a CPU, with gradients through its log-sum-exp as well.

    The kernel's backward knows out alone. Its logits' gradient is weight * (dout . value - dout . out), and that of the
    log-sum-exp adds weight * dlse. So one more column goes with it: value 0, dout 1, out -dlse.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> Part:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, out, lse, mask)
        ctx.how = causal, scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, mask = ctx.saved_tensors
        causal, scale = ctx.how
        width = query.shape[-1]
        query, key, value = (torch.nn.functional.pad(item, (0, 1)) for item in (query, key, value))
        out = torch.cat([out, -dlse.unsqueeze(-1).to(out.dtype)], dim=-1)
        dout = torch.nn.functional.pad(dout, (0, 1), value=1.0)
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = back(dout, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scale)
        return *(item[..., :width] for item in found), None, None, None


def _one_query(query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, scale: float) -> Part:
    """A single query on a CPU: two small products are faster than a kernel made for many."""
    rows, heads, _, wide = query_BHTD.shape
    kept = key_BGKD.shape[1]
    grouped = query_BHTD.reshape(rows, kept, heads // kept, wide)
    logits = (grouped @ key_BGKD.transpose(2, 3)).float() * scale
    lse = logits.logsumexp(-1)
    weights = (logits - lse[..., None]).exp().to(value_BGKD.dtype)
    out = (weights @ value_BGKD).reshape(rows, heads, 1, value_BGKD.shape[-1])
    return out, lse.reshape(rows, heads, 1)


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> Part:
    """Plain formulas over a few queries at a time; where gradients are asked for, each block is computed again."""
    size, parts = max(1, _BLOCK // max(1, key.shape[2])), []
    for first in range(0, query.shape[2], size):
        last = min(first + size, query.shape[2])
        seen = last if causal else key.shape[2]
        bias = None if mask is None else mask[..., first:last, :].expand(*mask.shape[:-2], last - first, -1)
        given = query[:, :, first:last], key[:, :, :seen], value[:, :, :seen], scale, causal, bias
        parts.append(
            checkpoint(_plain, *given, use_reentrant=False) if torch.is_grad_enabled() else _plain(*given)
        )
    return torch.cat([part[0] for part in parts], dim=2), torch.cat([part[1] for part in parts], dim=2)


def _plain(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool, mask: Tensor | None
) -> Part:
    times = query.shape[1] // key.shape[1]
    key, value = _repeated(key, times), _repeated(value, times)
    # The sum of exponentials is over a whole text: half types would lose the small ones.
    logits = (query @ key.transpose(2, 3)).float() * scale
    if mask is not None:
        logits = logits + mask
    if causal:
        # The last query sees the last key.
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device)
        later = later.triu(1 + logits.shape[-1] - logits.shape[-2])
        logits = logits.masked_fill(later, float("-inf"))
    lse = logits.logsumexp(-1)
    return (logits - lse[..., None]).exp().to(value.dtype) @ value, lse


def _repeated(states_BGKD: Tensor, times: int) -> Tensor:
    return states_BGKD if times == 1 else states_BGKD.repeat_interleave(times, dim=1)


def _widened(value: Tensor, width: int) -> Tensor:
    """Latent attention has narrower values than keys, which the kernels do not take."""
    spare = width - value.shape[-1]
    return torch.nn.functional.pad(value, (0, spare)) if spare > 0 else value
