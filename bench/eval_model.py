"""The model and the plain scripts that the evaluation benchmarks compare with. Vocabulary 32k, random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 32_000


def make_model(length: int, *, hidden: int = 256, layers: int = 4) -> Any:
    """A small Llama in float32 on the CPU."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=length,
    )
    return LlamaForCausalLM(config).eval()


def make_ids(length: int) -> torch.Tensor:
    """Random tokens (1, length)."""
    return torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def plain_loss(model: Any, ids: torch.Tensor) -> float:
    """One forward with whole logits: the usual perplexity script."""
    return float(model(input_ids=ids, labels=ids).loss)


@torch.inference_mode()
def bare_forward(model: Any, ids: torch.Tensor) -> None:
    """The least that anybody pays to have all logits of a text."""
    _ = model(input_ids=ids, use_cache=False).logits


@torch.inference_mode()
def plain_sliding(model: Any, ids: torch.Tensor, window: int, stride: int) -> float:
    """The sliding loop of the transformers documentation, averaged by token."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        target = ids[:, begin:end].clone()
        target[:, : -(end - before)] = -100
        scored = int((target[:, 1:] != -100).sum())
        total += float(model(input_ids=ids[:, begin:end], labels=target).loss) * scored
        count, before = count + scored, end
        if end == ids.shape[1]:
            break
    return total / count
