"""One row over several processes: each holds a slice of its tokens, and attention brings together what it needs.

`context` parallelism collects the keys and values of the whole row for the queries of the slice; it takes any number of
heads. `sequence` parallelism exchanges slices of all heads for all tokens of some heads, and back. Borders of documents
and sliding windows hold across slices, and no mask of the whole row is ever made.
Axes: B rows, H heads, T tokens of a row, S tokens of a slice, D head size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from ropewalk.attention.interface import (
    Call,
    add_route,
    attention_modules,
    base_implementation,
    install_attention,
    window_mask,
)
from ropewalk.attention.options import Way, row_multiple
from ropewalk.errors import RopewalkError, UsageError

Span = tuple[int, int]


class Sharing:
    """This process's place among the `size` processes that share each row."""

    def __init__(self, way: Way, rank: int, size: int, group: Any) -> None:
        self.way, self.rank, self.size, self.group = way, rank, size, group
        self._borders: list[list[int]] = []

    @property
    def multiple_of(self) -> int:
        """What the length of a row must be a multiple of."""
        return row_multiple(self.way, self.size)

    def spans(self, rank: int, length: int) -> list[Span]:
        """The parts of a row that a process holds.

        A late token has more keys than an early one: under `context` each holds a part from the front and its
        counterpart from the back, so that all have the same to do.
        """
        if length % self.multiple_of:
            raise UsageError(
                f"a row of {length} tokens does not divide over {self.size} processes",
                hint=f"use lengths that are multiples of {self.multiple_of}",
            )
        if self.way == "sequence":
            part = length // self.size
            return [(rank * part, (rank + 1) * part)]
        part = length // (2 * self.size)
        mirror = 2 * self.size - 1 - rank
        return [(rank * part, (rank + 1) * part), (mirror * part, (mirror + 1) * part)]

    def slice(self, tensor_BT: Tensor) -> Tensor:
        """This process's tokens of a (B, T) tensor, or of one with further axes."""
        spans = self.spans(self.rank, tensor_BT.shape[1])
        return torch.cat([tensor_BT[:, start:end] for start, end in spans], dim=1).contiguous()

    @contextlib.contextmanager
    def rows(self, documents_BT: Tensor) -> Iterator[None]:
        """Inside, attention is over whole rows with these documents; forward and backward both belong here."""
        # Read off once a micro-batch: every layer asks, and a GPU would wait each time.
        self._borders = borders_of(documents_BT)
        try:
            yield
        finally:
            self._borders = []

    @property
    def active(self) -> bool:
        """Whether rows are being shared at the moment."""
        return bool(self._borders)

    def route(self, call: Call) -> Tensor | None:
        """The attention of a module while rows are being shared; otherwise whatever it does alone."""
        if not self.active:
            return None
        return self.attend(call.module, call.query_BHTD, call.key_BHKD, call.value_BHKD, call.options)

    def attend(
        self,
        module: nn.Module,
        query_BHSD: Tensor,
        key_BHSD: Tensor,
        value_BHSD: Tensor,
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Causal attention of this slice's queries over the whole row, (B, S, H, D)."""
        for name in ("s_aux", "softcap", "position_bias"):
            if kwargs.get(name) is not None:
                raise UsageError(
                    f"{type(module).__name__} uses {name}, which shared rows do not serve",
                    hint="train without context_parallel and sequence_parallel",
                )
        # Under mixed precision rotation leaves queries and keys in float32 beside values in bfloat16.
        query_BHSD, key_BHSD, value_BHSD = _of_one_type(query_BHSD, key_BHSD, value_BHSD)
        length = self._borders[0][-1]
        how = How(
            kwargs.get("sliding_window"),
            kwargs.get("scaling"),
            kwargs.get("dropout", 0.0) if module.training else 0.0,
        )
        if self.way == "context":
            key_BHTD, value_BHTD = (self._gathered(item) for item in (key_BHSD, value_BHSD))
            spans = self.spans(self.rank, length)
            return _attend(query_BHSD, key_BHTD, value_BHTD, spans, self._borders, how).transpose(1, 2)
        query, key, value = (
            self._to_heads(item)
            for item in (query_BHSD, *self._enough_heads(key_BHSD, value_BHSD, query_BHSD))
        )
        attended = _attend(query, key, value, [(0, length)], self._borders, how)
        return self._to_tokens(attended).transpose(1, 2)

    def _gathered(self, slice_BHSD: Tensor) -> Tensor:
        """The whole row of every process's slices, in the order of the row."""
        # A slice is a front part and its mirror, so that the row is their parts sorted, not the slices in turn.
        stacked = _Gather.apply(slice_BHSD, self.group, self.size)
        length = slice_BHSD.shape[2] * self.size
        parts = {
            span: piece
            for rank in range(self.size)
            for span, piece in zip(self.spans(rank, length), stacked[rank].chunk(2, dim=2), strict=True)
        }
        return torch.cat([parts[span] for span in sorted(parts)], dim=2)

    def _enough_heads(self, key: Tensor, value: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        heads, kept = query.shape[1], key.shape[1]
        if heads % self.size or (kept % self.size and self.size % kept):
            raise UsageError(
                f"{heads} heads with {kept} key-value heads do not divide over {self.size} processes",
                hint="use context_parallel, which takes any number of heads",
            )
        # With fewer key-value heads than processes each goes to several, as the query heads that read it do.
        times = max(1, self.size // kept)
        return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)

    def _to_heads(self, slice_BHSD: Tensor) -> Tensor:
        """All tokens of this process's share of the heads."""
        parts = torch.stack(slice_BHSD.chunk(self.size, dim=1))
        received = _Exchange.apply(parts, self.group)
        return torch.cat(list(received.unbind()), dim=2)

    def _to_tokens(self, row_BHTD: Tensor) -> Tensor:
        """All heads of this process's tokens."""
        parts = torch.stack(row_BHTD.chunk(self.size, dim=2))
        received = _Exchange.apply(parts, self.group)
        return torch.cat(list(received.unbind()), dim=1)


def _of_one_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the type that this attention would compute in by itself; it also halves what travels."""
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[-1].dtype
    return tuple(tensor.to(dtype) for tensor in tensors)


@dataclass(frozen=True)
class How:
    """What a layer asks of its attention: the window that it sees, the scale of its logits, dropout."""

    window: int | None
    scale: float | None
    dropout: float


def _attend(
    query_BHSD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    spans: list[Span],
    borders: list[list[int]],
    how: How,
) -> Tensor:
    """Queries of the row's `spans` over its keys, each within its own document and window; (B, H, S, D)."""
    times = query_BHSD.shape[1] // key_BHTD.shape[1]
    if times > 1:
        key_BHTD, value_BHTD = (item.repeat_interleave(times, dim=1) for item in (key_BHTD, value_BHTD))
    # Rows with the same borders need no turn each.
    rows = [slice(None)] if len(borders) == 1 else [slice(row, row + 1) for row in range(len(borders))]
    outputs = []
    for row, edges in zip(rows, borders, strict=True):
        pieces, first = [], 0
        for start, end in spans:
            for begin, low, high in _pieces(edges, start, end):
                past = begin if how.window is None else max(begin, low - how.window + 1)
                query = query_BHSD[row, :, first + low - start : first + high - start]
                key, value = key_BHTD[row, :, past:high], value_BHTD[row, :, past:high]
                mask = _mask(query.shape[2], key.shape[2], how.window, query.device)
                pieces.append(
                    F.scaled_dot_product_attention(
                        query,
                        key,
                        value,
                        attn_mask=mask,
                        is_causal=mask is None,
                        scale=how.scale,
                        dropout_p=how.dropout,
                    )
                )
            first += end - start
        outputs.append(torch.cat(pieces, dim=2))
    return torch.cat(outputs)


def borders_of(documents_BT: Tensor) -> list[list[int]]:
    """Where the documents of each row begin, and the row's end; one list where that is the same for all rows."""
    length = documents_BT.shape[1]
    changes = (documents_BT[:, 1:] != documents_BT[:, :-1]).cpu()
    found = [[0, *(row.nonzero().flatten() + 1).tolist(), length] for row in changes]
    return found[:1] if all(edges == found[0] for edges in found) else found


def _pieces(edges: list[int], start: int, end: int) -> list[tuple[int, int, int]]:
    """(first token of its document, first and last of the piece) for each document in the tokens start..end."""
    return [
        (low, max(low, start), min(high, end)) for low, high in pairwise(edges) if low < end and high > start
    ]


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Any:
    """None where plain causal attention is meant; the last query always sees the last key."""
    if window is not None and keys > window:
        return window_mask(queries, keys, window, device)
    # torch aligns `is_causal` with the first key, and these queries stand at the end of theirs.
    return None if queries == keys else causal_lower_right(queries, keys)


class _Gather(torch.autograd.Function):
    """Everybody's tensor, stacked; its gradients are summed and handed back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any, size: int) -> Tensor:
        ctx.group = group
        gathered = tensor.new_empty((size, *tensor.shape))
        dist.all_gather_into_tensor(gathered.flatten(0, 1), tensor.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Queries of every process read this slice: its gradient is the sum of theirs.
        own = torch.empty_like(gradient[0])
        dist.reduce_scatter_tensor(own, gradient.contiguous().flatten(0, 1), group=ctx.group)
        return own, None, None


class _Exchange(torch.autograd.Function):
    """Part n to process n, and from process n as part n; the gradients go back the same way."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Any) -> Tensor:
        ctx.group = group
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        returned = torch.empty_like(gradient)
        dist.all_to_all_single(returned, gradient.contiguous(), group=ctx.group)
        return returned, None


def share_attention(model: nn.Module, sharing: Sharing) -> None:
    """Tell every attention module of the model about the sharing; only inside `Sharing.rows` it changes anything."""
    implementation = base_implementation(model)
    if implementation != "sdpa" and not implementation.startswith("flash"):
        raise UsageError(
            f"{implementation} attention does not work on shared rows", hint="set model.attention to sdpa"
        )
    modules = attention_modules(model)
    # Recurrent and gated layers of transformers convolve over tokens; a trial row would show it only once trained.
    convolves = next((type(item).__name__ for item in model.modules() if isinstance(item, nn.Conv1d)), None)
    if convolves or len(modules) < int(model.config.get_text_config().num_hidden_layers):
        raise UsageError(
            f"{type(model).__name__} mixes tokens outside of its attention"
            + (f" ({convolves})" if convolves else f" (it attends in {len(modules)} of its layers)"),
            hint="train without context_parallel and sequence_parallel",
        )
    install_attention(model)
    for module in modules.values():
        add_route(module, sharing.route)


@torch.no_grad()
def check_sharing(
    model: Any, sharing: Sharing, vocabulary_size: int, device: Any, *, mixed: bool = False
) -> None:
    """Compute one row alone and shared: a model that mixes tokens outside of its attention is refused.

    Every process must call. `mixed`: the model computes in a coarser type than its logits come in.
    """
    length = 8 * sharing.multiple_of
    row = torch.arange(length, device=device)[None]
    inputs = {
        "input_ids": (row * 7 + 3) % vocabulary_size,
        "position_ids": row,
        "attention_mask": torch.ones_like(row),
    }
    training = model.training
    model.eval()
    try:
        whole = model(**inputs, use_cache=False).logits
        with sharing.rows(torch.zeros_like(row)):
            part = {name: sharing.slice(tensor) for name, tensor in inputs.items()}
            shared = model(**part, use_cache=False).logits
    finally:
        model.train(training)
    wanted = sharing.slice(whole).double()
    loose = 5e-2 if mixed or whole.dtype not in (torch.float32, torch.float64) else 1e-3
    worst = torch.tensor(float((shared.double() - wanted).abs().max() / wanted.std()), device=device)
    # One answer for all: a process that raised alone would leave the others waiting.
    dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=sharing.group)
    if not float(worst) <= loose:
        name = type(getattr(model, "module", model)).__name__
        raise RopewalkError(
            f"{name} computes something else on a shared row (by {float(worst):.2g} of its spread)",
            hint="it mixes tokens outside of its attention: train without context_parallel and sequence_parallel",
        )
