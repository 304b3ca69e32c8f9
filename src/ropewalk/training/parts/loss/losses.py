"""The last linear layer and the cross-entropy in one step, over chunks of tokens: the logits are never whole.

Axes: B batch, T tokens, C hidden size, V vocabulary, N = B*T tokens in a row. Labels here stand beside the hidden
state that predicts them (already shifted by one); `IGNORE` marks a token without loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ropewalk.errors import UsageError
from ropewalk.models.live.logits import losses_in_place

IGNORE = -100


def shift_labels(labels_BT: Tensor) -> Tensor:
    """Labels as Hugging Face gives them (equal to the inputs) moved beside the state that predicts them.

    >>> shift_labels(torch.tensor([[5, 6, 7]])).tolist()
    [[6, 7, -100]]
    """
    return functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)


def chunked_cross_entropy(
    hidden_BTC: Tensor,
    weight_VC: Tensor,
    labels_BT: Tensor,
    *,
    token_weights_BT: Tensor | None = None,
    chunk: int = 1024,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """sum_n w_n * CE(softcap(scale * (h_n W' + b)), label_n) / denominator, in nats; equal to the plain loss.

    Tokens labelled `IGNORE` carry no loss. The denominator is the number of the others unless given (a Trainer gives
    the count over all accumulated batches), so weights should have mean 1. softcap(z) = cap * tanh(z / cap). The
    gradients of hidden state, weight, bias and token weights are made chunk by chunk during the forward pass: memory is
    chunk * V instead of N * V, and no product is computed twice.

    >>> hidden, weight = torch.zeros(1, 2, 3), torch.zeros(4, 3)
    >>> round(chunked_cross_entropy(hidden, weight, torch.tensor([[1, -100]])).item(), 4)
    1.3863
    """
    hidden_NC, labels_N = _flat(hidden_BTC, weight_VC, labels_BT, chunk)
    weights_N = None
    if token_weights_BT is not None:
        if token_weights_BT.shape != labels_BT.shape:
            raise UsageError(
                f"token weights have shape {tuple(token_weights_BT.shape)} and labels {tuple(labels_BT.shape)}",
                hint="give one weight for each label",
            )
        weights_N = token_weights_BT.reshape(-1)
    if denominator is None:
        denominator = (labels_N != IGNORE).sum().clamp(min=1)
    dtype = _compute_dtype(hidden_NC)
    total: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_NC, weight_VC, bias, weights_N, labels_N, chunk, softcap, scale, dtype
    )
    return total / denominator


@torch.no_grad()
def token_losses(
    hidden_BTC: Tensor,
    weight_VC: Tensor,
    labels_BT: Tensor,
    *,
    chunk: int = 1024,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """The loss of each token in nats, shape (B, T), 0 where the label is `IGNORE`; without gradients."""
    hidden_NC, labels_N = _flat(hidden_BTC, weight_VC, labels_BT, chunk)
    dtype = _compute_dtype(hidden_NC)
    head = weight_VC.to(dtype)
    losses = [
        _chunk_losses(_logits(rows.to(dtype), head, bias, softcap, scale), labels)[0]
        for rows, labels in zip(torch.split(hidden_NC, chunk), torch.split(labels_N, chunk))
    ]
    return torch.cat(losses).view(labels_BT.shape)


def _flat(hidden_BTC: Tensor, weight_VC: Tensor, labels_BT: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    if chunk < 1:
        raise UsageError(f"chunk={chunk} is not a number of tokens", hint="use 1 or more, most often 1024")
    if hidden_BTC.shape[:-1] != labels_BT.shape or hidden_BTC.shape[-1] != weight_VC.shape[-1]:
        raise UsageError(
            f"hidden state {tuple(hidden_BTC.shape)}, head {tuple(weight_VC.shape)} and labels "
            f"{tuple(labels_BT.shape)} do not belong together",
            hint="they are (B, T, C), (V, C) and (B, T), with the labels already shifted",
        )
    return hidden_BTC.reshape(-1, hidden_BTC.shape[-1]), labels_BT.reshape(-1)


def _compute_dtype(hidden_NC: Tensor) -> torch.dtype:
    """The type of the product, as the plain linear layer would choose it."""
    kind = hidden_NC.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NC.dtype


def _logits(
    rows: Tensor, head: Tensor, bias: Tensor | None, softcap: float | None, scale: float | None
) -> Tensor:
    """Logits in at least float32, after scaling and capping."""
    logits = functional.linear(rows, head, None if bias is None else bias.to(head.dtype))
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if scale is not None:
        logits = logits * scale
    return logits if softcap is None else torch.tanh_(logits.div_(softcap)).mul_(softcap)


def _chunk_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of a chunk, which tokens count, safe labels, and the sum of exponentials that `logits` is turned into."""
    counted = labels != IGNORE
    # `IGNORE` is no index: any valid label serves where the loss is dropped.
    safe = torch.where(counted, labels, 0)
    losses, total = losses_in_place(logits, safe)
    return torch.where(counted, losses, 0.0), counted, safe, total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The weighted sum of losses. Gradients are ready after the forward pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias: Tensor | None,
        weights_N: Tensor | None,
        labels_N: Tensor,
        chunk: int,
        softcap: float | None,
        scale: float | None,
        dtype: torch.dtype,
    ) -> Tensor:
        wanted = _wanted_gradients(ctx, hidden_NC, weight_VC, bias, weights_N)
        grad_hidden, grad_head, grad_bias, losses_N = wanted
        head = weight_VC.to(dtype)
        total = torch.zeros((), dtype=_wide(dtype), device=hidden_NC.device)
        for start in range(0, hidden_NC.shape[0], chunk):
            piece = slice(start, start + chunk)
            rows = hidden_NC[piece].to(dtype)
            logits = _logits(rows, head, bias, softcap, scale)
            # Before `_chunk_losses`, which overwrites the logits with their exponentials.
            through = None if softcap is None else 1 - (logits / softcap) ** 2
            losses, counted, safe, total_exp = _chunk_losses(logits, labels_N[piece])
            factors = counted.to(losses.dtype)
            if weights_N is not None:
                factors = factors * weights_N[piece].to(losses.dtype)
            total += (losses * factors).sum()
            if losses_N is not None:
                losses_N[piece] = losses
            if grad_hidden is None and grad_head is None and grad_bias is None:
                continue
            slope = _slope(logits, total_exp, safe, factors, through, scale).to(dtype)
            if grad_hidden is not None:
                grad_hidden[piece] = slope @ head
            if grad_head is not None and slope.dtype == grad_head.dtype:
                # In place, without a second array of the size of the head; it takes tensors of one type only.
                grad_head.addmm_(slope.T, rows)
            elif grad_head is not None:
                grad_head += slope.T @ rows
            if grad_bias is not None:
                grad_bias += slope.sum(0, dtype=grad_bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias, losses_N)
        ctx.dtypes = tuple(
            None if item is None else item.dtype for item in (hidden_NC, weight_VC, bias, weights_N)
        )
        return total

    @staticmethod
    # The gradients are finished numbers without a graph: a second derivative through them would be wrong unseen.
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grads = [
            None if grad is None else (grad * grad_total).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        # Labels, chunk, cap, scale and type have no gradient.
        return (*grads, None, None, None, None, None)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _wanted_gradients(
    ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, bias: Tensor | None, weights_N: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Empty places for the gradients that will be asked for; sums over tokens are kept in at least float32."""
    wide = _wide(hidden_NC.dtype)
    return (
        torch.empty_like(hidden_NC) if ctx.needs_input_grad[0] else None,
        torch.zeros_like(weight_VC, dtype=wide) if ctx.needs_input_grad[1] else None,
        torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[2] else None,
        torch.empty(len(hidden_NC), dtype=wide, device=hidden_NC.device)
        if weights_N is not None and ctx.needs_input_grad[3]
        else None,
    )


def _slope(
    exponentials: Tensor,
    total: Tensor,
    safe: Tensor,
    factors: Tensor,
    through: Tensor | None,
    scale: float | None,
) -> Tensor:
    """d(weighted loss)/d(raw logits): (softmax - one-hot) * w, through cap (1 - tanh**2) and scale; in place."""
    slope = exponentials.mul_((factors / total)[:, None])
    slope[torch.arange(len(safe), device=safe.device), safe] -= factors
    if through is not None:
        slope *= through
    return slope if scale is None else slope.mul_(scale)
