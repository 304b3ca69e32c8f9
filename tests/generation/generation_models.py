"""Tiny models of seven architectures, and what a fresh forward of each says."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tiny_configs import LATENT

COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 32,
    "factor": 4.0,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
    ),
    "phi3": ("phi3", {}),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None, "rotary_pct": 0.5}),
    "latent": ("deepseek_v3", LATENT),
}


def model_of(kind: str, attn: str = "sdpa", **changes: Any) -> Any:
    """A random two-layer model whose logits differ clearly from token to token and from angle to angle."""
    name, own = KINDS[kind]
    given = {key: value for key, value in (COMMON | own | changes).items() if value is not None}
    torch.manual_seed(3)
    config = AutoConfig.for_model(name, **given)
    config.eos_token_id = None
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    model.generation_config.eos_token_id = None
    return model


def some_tokens(length: int, seed: int = 1) -> list[int]:
    """Random token ids, none of them special."""
    return torch.randint(3, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def whole_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits after every token from one forward without a cache, (T, V)."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
