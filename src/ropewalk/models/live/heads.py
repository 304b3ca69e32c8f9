"""From hidden states to logits through the model's own code, for chosen positions only.

The output layer of a model with 128k words is larger than everything else in memory when it is applied to a
whole text. Applying it piece by piece needs the scalings and caps that each architecture puts around it, so
the model's own forward is run with its decoder replaced by given hidden states, and the result is checked
once against a real forward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers.modeling_outputs import MoeModelOutputWithPast


def decoder_of(model: Any) -> Any | None:
    """The part of a causal model that returns hidden states, or None where the model has no such part."""
    decoder = getattr(model, "base_model", None)
    if decoder is None or decoder is model:
        decoder = getattr(model, "model", None)
    return None if decoder is None or decoder is model else decoder


class _Hidden(MoeModelOutputWithPast):
    """Hidden states in place of a decoder's output; whatever else an architecture's output would hold is None."""

    def __getattr__(self, name: str) -> Any:
        # Python's own questions (copying, pickling) are no fields of an output.
        if name.startswith("_"):
            raise AttributeError(name)
        return None


@contextlib.contextmanager
def _replaced(decoder: Any, hidden_BTE: torch.Tensor) -> Iterator[None]:
    # The instance's own dictionary: a method of the class must not come back as an attribute of the object.
    before = decoder.__dict__.get("forward")
    decoder.forward = lambda *args, **kwargs: _Hidden(last_hidden_state=hidden_BTE)
    try:
        yield
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before


def logits_from(model: Any, decoder: Any, ids_BT: torch.Tensor, hidden_BTE: torch.Tensor) -> torch.Tensor:
    """Logits of given hidden states by the model's own output path."""
    with _replaced(decoder, hidden_BTE):
        logits_BTV: torch.Tensor = model(input_ids=ids_BT, use_cache=False).logits
    return logits_BTV


def split_works(model: Any, decoder: Any | None, ids_BT: torch.Tensor) -> bool:
    """Whether decoder then head gives the logits of the whole model, on a few real tokens."""
    if decoder is None:
        return False
    whole = model(input_ids=ids_BT, use_cache=False).logits
    try:
        hidden_BTE = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
        pieces = [
            logits_from(model, decoder, ids_BT[:, i : i + 1], hidden_BTE[:, i : i + 1])
            for i in range(ids_BT.shape[1])
        ]
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError):
        # A model that needs more than hidden states in its head is run whole instead: slower, never
        # different.
        return False
    split = torch.cat(pieces, dim=1)
    if split.shape != whole.shape:
        return False
    tolerance = 1e-5 if whole.dtype == torch.float32 else 3e-2
    # A broken model may give NaN here already; it is the measurement that must say so, with the position.
    largest = float(whole.float().nan_to_num(0, 0, 0).abs().max())
    return bool(
        torch.allclose(split.float(), whole.float(), rtol=tolerance, atol=tolerance * largest, equal_nan=True)
    )
