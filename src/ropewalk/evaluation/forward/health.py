"""The failures that long context is said to cause, measured on this model: attention that goes uniform or collapses to
a peak, mass stuck on the first tokens, gradients that grow with length, logits that spread.

Attention weights are recomputed for a few query positions before each length, a block of heads at a time, so memory
stays bounded however long the text is. Axes: B rows, H heads, Q probed queries, T keys, D head width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_layers import GradientCheckpointingLayer

from ropewalk.attention.interface import Call, attention_modules, routed
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine, free_bytes
from ropewalk.evaluation.forward.scored import token_loss
from ropewalk.models.live.heads import logits_from
from ropewalk.text.segments import TokenArray

QUERIES = 16
FIRST_TOKENS = 4
_BLOCK_BYTES = 128 << 20


@dataclass
class _Probe:
    """What is being collected: which query positions, and the rows found so far by (layer, length)."""

    lengths: Sequence[int]
    seen: int = 0
    rows: dict[tuple[int, int], list[dict[str, Any]]] = field(default_factory=dict)

    def wanted(self, first: int, last: int) -> Iterator[tuple[int, list[int]]]:
        """For each length the probed positions that lie in this chunk."""
        for length in self.lengths:
            # Spread over the last quarter before the length: queries that have all the far context there is.
            step = max(1, length // 4 // QUERIES)
            chosen = [p for p in range(length - 1, -1, -step)[:QUERIES] if first <= p < last]
            if chosen:
                yield length, chosen

    def report(self, call: Call) -> None:
        """Measure the wanted queries of this call; its attention is computed by whoever comes next."""
        total, tokens = call.key_BHKD.shape[2], call.query_BHTD.shape[2]
        # A window layer holds fewer keys than the text is long; its cache here keeps everything, so positions agree.
        for length, positions in self.wanted(total - tokens, total):
            chosen = [position - (total - tokens) for position in positions]
            masks = None if call.mask is None else call.mask[..., chosen, :]
            rows = _measure(call.query_BHTD[:, :, chosen], call.key_BHKD, positions, masks, call.options)
            self.rows.setdefault((call.layer, length), []).append(rows)


def attention_health(
    engine: Engine, segments: Sequence[TokenArray], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """One row a layer and length: entropy, mass by distance, mass on the first tokens, spread of the logits.

    `entropy` is in nats and `entropy_share` divides it by that of uniform attention (1: uniform, 0: one peak), the mean
    over heads with the lowest and highest head beside it. `distance` is the mass on keys 0, 1, 2-3, 4-7, ... back.
    """
    probe = _Probe(sorted(lengths))
    with _probing(engine, probe), torch.inference_mode():
        for ids in segments:
            context = engine.context(capacity=len(ids), rope_length=len(ids))
            # A context never reads its last token; one more behind the text makes it read all that is asked about.
            context.extend(np.append(ids[: max(lengths)], ids[-1]))
    if not probe.rows:
        raise _cannot_look()
    return [_merged(layer, length, probe.rows[layer, length]) for layer, length in sorted(probe.rows)]


@contextlib.contextmanager
def _probing(engine: Engine, probe: _Probe) -> Iterator[None]:
    """Every attention module reports to the probe while it does what it always does."""
    try:
        route = dict.fromkeys(attention_modules(engine.model), probe.report)
    except UsageError as error:
        raise _cannot_look() from error
    split, engine.splits = engine.splits, False
    try:
        with routed(engine.model, route):
            yield
    finally:
        engine.splits = split


def _cannot_look() -> RopewalkError:
    return RopewalkError(
        "this model's attention does not run through the attention interface, so it cannot be looked into",
        hint="leave out --health",
    )


def _measure(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    positions: Sequence[int],
    mask: torch.Tensor | None,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Statistics of the attention weights of a few queries, all heads: numpy arrays over (H, Q)."""
    groups = query_BHQD.shape[1] // key_BKTD.shape[1]
    scale = kwargs.get("scaling") or query_BHQD.shape[-1] ** -0.5
    where = torch.tensor(list(positions), device=query_BHQD.device)
    keys = torch.arange(key_BKTD.shape[2], device=query_BHQD.device)
    distance_QT = where[:, None] - keys[None]
    allowed = distance_QT >= 0
    if mask is not None:
        # Additive masks hold the lowest number of their type, or some -1e4 and less in code written for float16.
        allowed = allowed & (mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] > -1e4)
    bins_QT = torch.where(distance_QT > 0, distance_QT.clamp(min=1).log2().floor().long() + 1, 0)
    # Four float32 arrays of this shape exist at once: logits, masked logits, weights, shares.
    block = max(1, _BLOCK_BYTES // (4 * 4 * len(positions) * key_BKTD.shape[2]))
    sinks, softcap = kwargs.get("s_aux"), kwargs.get("softcap")
    found = []
    for head in range(0, query_BHQD.shape[1], block):
        heads = slice(head, min(head + block, query_BHQD.shape[1]))
        keys_HTD = repeat_kv(key_BKTD, groups)[0, heads].float()
        logits_HQT = torch.einsum("hqd,htd->hqt", query_BHQD[0, heads].float(), keys_HTD) * scale
        if softcap:
            logits_HQT = torch.tanh(logits_HQT / softcap) * softcap
        sink_H = None if sinks is None else sinks[heads].float()
        found.append(_statistics(logits_HQT, allowed, bins_QT, sink_H))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _statistics(
    logits_HQT: torch.Tensor, allowed_QT: torch.Tensor, bins_QT: torch.Tensor, sink_H: torch.Tensor | None
) -> dict[str, Any]:
    count_Q = allowed_QT.sum(-1)
    masked_HQT = logits_HQT.masked_fill(~allowed_QT, -math.inf)
    total_HQ = torch.logsumexp(masked_HQT, dim=-1)
    if sink_H is not None:
        total_HQ = torch.logaddexp(total_HQ, sink_H[:, None].expand_as(total_HQ))
    weights_HQT = torch.exp(masked_HQT - total_HQ[..., None])
    # A learned sink swallows mass: what is left is spread over the keys and judged as it is spread.
    seen_HQ = weights_HQT.sum(-1)
    shares_HQT = weights_HQT / seen_HQ[..., None].clamp(min=1e-30)
    # At the smallest float32 the logarithm is finite, and 0 * log(0) the zero that it is in an entropy.
    entropy_HQ = -(shares_HQT * shares_HQT.clamp(min=1e-45).log()).sum(-1)
    # A query that sees one key alone has no entropy to take a share of; any divisor but zero will do.
    uniform_Q = count_Q.clamp(min=2).log()
    mean_HQ = logits_HQT.masked_fill(~allowed_QT, 0).sum(-1) / count_Q
    # Centred first: the mean of squares less the square of the mean would lose its digits to large logits.
    spread_HQT = ((logits_HQT - mean_HQ[..., None]) ** 2).masked_fill(~allowed_QT, 0)
    mass = torch.zeros((*weights_HQT.shape[:2], int(bins_QT.max()) + 1), device=weights_HQT.device)
    mass.scatter_add_(-1, bins_QT.expand(weights_HQT.shape[0], -1, -1), weights_HQT)
    return {
        "entropy": entropy_HQ.cpu().numpy(),
        "entropy_share": (entropy_HQ / uniform_Q).cpu().numpy(),
        "first": weights_HQT[..., :FIRST_TOKENS].sum(-1).cpu().numpy(),
        "peak": shares_HQT.amax(-1).cpu().numpy(),
        "spread": (spread_HQT.sum(-1) / count_Q).sqrt().cpu().numpy(),
        "mass": mass.mean(1).cpu().numpy(),
    }


def _merged(layer: int, length: int, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def over(name: str) -> Any:
        return np.concatenate([part[name] for part in parts], axis=1)

    share_H = over("entropy_share").mean(1)
    width = max(part["mass"].shape[-1] for part in parts)
    mass = np.mean([np.pad(p["mass"].mean(0), (0, width - p["mass"].shape[-1])) for p in parts], axis=0)
    return {
        "layer": layer,
        "length": length,
        "queries": int(over("entropy").shape[1]),
        "entropy": float(over("entropy").mean()),
        "entropy_share": float(share_H.mean()),
        "entropy_share_range": [float(share_H.min()), float(share_H.max())],
        "first_tokens": float(over("first").mean()),
        "peak": float(over("peak").mean()),
        "logit_std": float(over("spread").mean()),
        "distance": [
            {"from": 0 if index == 0 else 2 ** (index - 1), "mass": float(value)}
            for index, value in enumerate(mass)
        ],
    }


@torch.inference_mode()
def output_spread(engine: Engine, ids: TokenArray, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Standard deviation and largest value of the output logits over the last tokens before each length."""
    rows = []
    context = engine.context(capacity=max(lengths), rope_length=max(lengths))
    for length in sorted(lengths):
        context.extend(ids[context.length : max(1, length - QUERIES)])
        # The context keeps its last token out of the cache, so what is fed begins with it.
        fed = engine.tensor(ids[context.length - 1 : length])
        deviations, peaks = [], []
        for logits_BTV, _, _ in context.ask(fed):
            deviations.append(logits_BTV.float().std(-1).flatten())
            peaks.append(logits_BTV.float().amax(-1).flatten())
        rows.append(
            {
                "length": length,
                "std": float(torch.cat(deviations).mean()),
                "max": float(torch.cat(peaks).mean()),
            }
        )
    return rows


def gradient_norms(engine: Engine, ids: TokenArray, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Norm of the gradient of the mean loss over all parameters, from one backward over the first `length` tokens.

    Activations are recomputed and logits are made in slices. A length whose activations would not fit into free
    memory has `norm` None and says so.
    """
    return [_gradient(engine, ids, length) for length in sorted(lengths)]


def _gradient(engine: Engine, ids: TokenArray, length: int) -> dict[str, Any]:
    model = engine.model
    config = model.config.get_text_config()
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    element = next(model.parameters()).element_size()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # Two kept tensors a layer and one layer's inner ones (about 40 times the width), beside the gradients.
    needed = weights + element * length * hidden * (2 * layers + 40)
    if needed > 0.7 * free_bytes(engine.device):
        return {
            "length": length,
            "norm": None,
            "why": "activations of this length do not fit into free memory",
        }
    # The norm is over all parameters, whatever an adapter or a caller has frozen.
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _backward(engine, engine.tensor(ids[:length]))
        total = math.sqrt(
            sum(float(p.grad.float().pow(2).sum()) for p in model.parameters() if p.grad is not None)
        )
    finally:
        model.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {"length": length, "norm": total}


def _backward(engine: Engine, ids_BT: torch.Tensor) -> None:
    model, length = engine.model, ids_BT.shape[1]
    supports = getattr(model, "supports_gradient_checkpointing", False)
    if supports:
        model.gradient_checkpointing_enable()
        # Layers recompute only while they are "training"; their parts are not, so that no dropout is drawn.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True
    try:
        if engine.decoder is None:
            logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
            torch.autograd.backward(token_loss(logits_BTV, ids_BT[:, 1:]).mean())
            return
        hidden_BTE = engine.decoder(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
        # The head's gradient is gathered slice by slice on this copy and sent through the layers once at the end.
        detached = hidden_BTE.detach().requires_grad_(True)

        def piece(hidden: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return token_loss(logits_from(model, engine.decoder, inputs, hidden), targets).sum() / (
                length - 1
            )

        for first in range(0, length - 1, engine.slice_tokens(1)):
            last = min(first + engine.slice_tokens(1), length - 1)
            inputs, targets = ids_BT[:, first:last], ids_BT[:, first + 1 : last + 1]
            checkpoint(piece, detached[:, first:last], inputs, targets, use_reentrant=False).backward()
        hidden_BTE.backward(detached.grad)
    finally:
        if supports:
            model.gradient_checkpointing_disable()
            model.eval()
