"""Models of a few thousand parameters for the tests of training."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small_model(kind: str = "llama", *, attn: str = "sdpa", sharp: bool = True, **fields: Any) -> Any:
    """A model with attention sharp enough for positions and borders to matter."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **(COMMON | fields))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn)
    if sharp:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    return model.eval()


def some_tokens(rows: int = 2, length: int = 40, *, seed: int = 1) -> torch.Tensor:
    """Random ids without the special ones."""
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
