"""What a short fine-tune costs: tokens and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ropewalk.planning.shape import ModelShape

# YaRN fine-tuned Llama-2 for 400 steps of 64 sequences at the target length (arXiv:2309.00071, section 4.1).
_YARN_STEPS, _YARN_SEQUENCES = 400, 64
# A budget that one card can pay: as many steps, with about a quarter of a million tokens each.
_SMALL_STEP_TOKENS = 1 << 18


@dataclass(frozen=True)
class FineTuneCost:
    """One fine-tuning budget."""

    name: str
    steps: int
    tokens: int
    flops: float

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {"name": self.name, "steps": self.steps, "tokens": self.tokens, "flops": self.flops}


def mean_keys(length: int, window: int | None = None, *, chunked: bool = False) -> float:
    """Keys that a token attends to on average over a sequence: (L+1)/2, or min(p+1, w) averaged under a window.

    Under a window that is nearly w, not half of it: only the first w tokens see less. Chunks start afresh, so that
    their average is half a chunk.

    >>> mean_keys(5), mean_keys(5, 2), mean_keys(6, 3, chunked=True)
    (3.0, 1.8, 2.0)
    """
    if window is None or window >= length:
        return (length + 1) / 2
    if chunked:
        whole, rest = divmod(length, window)
        return (whole * window * (window + 1) / 2 + rest * (rest + 1) / 2) / length
    return window - window * (window - 1) / (2 * length)


def training_flops(shape: ModelShape, tokens: int, length: int) -> float:
    """6 * active parameters * tokens, and for attention 6 * (query + output width) * keys a layer and token.

    A token meets its keys in two products, query with key and weight with value, of 2 operations an element each, and
    the backward pass does both twice.
    """
    # Layers without attention meet none.
    keys = shape.full_layers * mean_keys(length)
    keys += shape.window_layers * mean_keys(length, shape.window, chunked=shape.chunked)
    widths = shape.query_size + shape.output_size
    return 6.0 * shape.active_parameters * tokens + 6.0 * widths * keys * tokens


def fine_tune_cost(shape: ModelShape, length: int) -> list[FineTuneCost]:
    """The published budget and a small one, at a target length."""
    published = _YARN_STEPS * _YARN_SEQUENCES * length
    small = _YARN_STEPS * max(_SMALL_STEP_TOKENS, length)
    return [
        FineTuneCost(
            "as published for YaRN", _YARN_STEPS, published, training_flops(shape, published, length)
        ),
        FineTuneCost("small", _YARN_STEPS, small, training_flops(shape, small, length)),
    ]
