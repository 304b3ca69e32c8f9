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


def training_flops(shape: ModelShape, tokens: int, length: int) -> float:
    """6 * active parameters * tokens, plus attention: 6 * layers * query width * length a token (causal, forward and
    backward: 2 products * 2 operations * length/2 keys * 3)."""
    query = shape.num_attention_heads * shape.head_dim
    window = min(shape.window, length) if shape.window else length
    reach = shape.full_layers * length + shape.window_layers * window
    return 6.0 * shape.active_parameters * tokens + 6.0 * query * reach * tokens


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
