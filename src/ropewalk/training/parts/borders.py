"""Do documents in one row really not see each other, and skipped positions do? Tried on the model itself first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.interface import (
    add_query_hook,
    attention_modules,
    base_implementation,
    install_attention,
    remove_attention,
    remove_query_hook,
)
from ropewalk.attention.temperature import chosen_layers
from ropewalk.errors import UsageError, one_line
from ropewalk.training.parts.packing import PackingOptions, attention_inputs, fitting_methods

_LENGTH = 12


def choose_method(model: Any, options: PackingOptions) -> str:
    """The first way of telling borders that this model heeds, installed; an error that says why where none is.

    With `method: auto` every way that fits the model's attention is tried, otherwise only the one asked for.
    """
    implementation = base_implementation(model)
    reasons = []
    for method in fitting_methods(options, implementation):
        wrapped = method == "varlen" and implementation == "sdpa"
        try:
            if wrapped:
                install_attention(model)
            reason = _window_lost(model, method) or _leak(model, method)
        except UsageError as error:
            wrapped, reason = False, error.message
        if reason is None:
            return method
        if wrapped:
            remove_attention(model)
        reasons.append(f"{method}: {reason}")
    raise UsageError(
        f"{type(model).__name__} cannot keep packed documents apart ({'; '.join(reasons)})",
        hint="set packing.boundaries to none",
    )


@torch.no_grad()
def check_skips(model: Any, method: str) -> None:
    """Refuse a model that takes a skipped position for the end of a document, or that does not heed positions."""
    embedding = model.get_input_embeddings().weight
    vocabulary, device = embedding.shape[0], embedding.device
    tokens = (torch.arange(_LENGTH, device=device) + 3)[None] % vocabulary
    other = tokens.clone()
    other[:, 0] = 1
    plain = torch.arange(_LENGTH, device=device)[None]
    skipped = torch.where(plain < _LENGTH // 2, plain, plain + 2 * _LENGTH)
    training = model.training
    model.eval()
    try:
        near, far, changed = (
            _logits(model, row, attention_inputs(torch.zeros_like(row), positions, method=method))[
                0, -1
            ].double()
            for row, positions in ((tokens, plain), (tokens, skipped), (other, skipped))
        )
    finally:
        model.train(training)
    # Equal to the bit, on purpose: a token that is not seen at all changes none.
    if torch.equal(far, changed):
        reason = "takes a skipped position for the end of a document"
    elif torch.equal(near, far):
        reason = "does not heed the positions that it is given"
    else:
        return
    raise UsageError(
        f"{type(model).__name__} {reason}",
        hint="set positions.kind to plain and leave out parts that leave gaps, such as far-drop",
    )


@torch.no_grad()
def _window_lost(model: Any, method: str) -> str | None:
    """Why layers with a sliding window would see more than it, or None. A short trial row could not show this."""
    modules = attention_modules(model)
    sliding = set(modules) - set(chosen_layers(model, "full"))
    # Transformers makes native masks by layer type, and FlashAttention takes the window as an argument.
    if not sliding or method == "native" or base_implementation(model).startswith("flash"):
        return None
    if method == "mask":
        return "one mask for all layers would switch the sliding windows off"
    told: set[int] = set()

    def watch(
        module: Any, query: Tensor, key: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        if kwargs.get("sliding_window") is not None:
            told.add(int(module.layer_idx))
        return query, kwargs

    for index in sliding:
        add_query_hook(modules[index], watch)
    try:
        model(
            input_ids=torch.arange(4, device=model.get_input_embeddings().weight.device)[None],
            use_cache=False,
        )
    finally:
        for index in sliding:
            remove_query_hook(modules[index], watch)
    return None if told == sliding else "its attention is not told its sliding window"


@torch.no_grad()
def _leak(model: Any, method: str) -> str | None:
    """Why the second of two documents in a row is not computed as it is alone, or None where it is."""
    embedding = model.get_input_embeddings().weight
    vocabulary, device = embedding.shape[0], embedding.device
    first, other, second = (
        (torch.arange(_LENGTH, device=device) * step + start)[None] % vocabulary
        for step, start in ((1, 3), (5, 7), (3, 4))
    )
    documents = torch.cat([torch.zeros_like(first), torch.ones_like(second)], dim=1)
    positions = torch.arange(_LENGTH, device=device).repeat(2)[None]
    training = model.training
    model.eval()
    try:
        inputs = attention_inputs(documents, positions, method=method)
        packed = _logits(model, torch.cat([first, second], dim=1), inputs)
        changed = _logits(model, torch.cat([other, second], dim=1), inputs)
        alone = _logits(model, second, {"use_cache": False})
    except (ValueError, TypeError, RuntimeError, KeyError, NotImplementedError, ImportError) as error:
        return one_line(error, 120)
    finally:
        model.train(training)
    whole = alone.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(alone.device.type)
    loose = 1e-4 if whole else 3e-2
    spread = alone.double().std()
    if (changed - packed).double().abs().max() > loose * spread:
        return "a document changes with the one before it"
    # A row of another length may be summed in another order: ten times the room of the comparison above.
    if (packed - alone).double().abs().max() > 10 * loose * spread:
        return "a document is not computed as it is alone"
    return None


def _logits(model: Any, tokens: Tensor, inputs: dict[str, Any]) -> Tensor:
    logits: Tensor = model(input_ids=tokens, **inputs).logits[:, -_LENGTH:]
    return logits
