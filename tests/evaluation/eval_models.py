"""Tiny models and a byte tokenizer for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = 257


def byte_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte; with `bos`, token 256 opens every text."""
    vocabulary = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<s>"] = 256
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def tiny(kind: str = "llama", *, std: float = 0.08, seed: int = 0, **changes: Any) -> Any:
    """A two-layer model of random weights, loud enough that logits differ."""
    settings: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 256,
        "eos_token_id": 255,
    }
    given = {key: value for key, value in (settings | changes).items() if value is not None}
    config = AutoConfig.for_model(kind, **given)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def save(folder: Path, model: Any, *, bos: bool = False) -> Path:
    """A checkpoint folder with its tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer(bos=bos).save_pretrained(folder)
    return folder


def text_ids(length: int, rows: int = 1, seed: int = 1) -> torch.Tensor:
    """Random token ids (rows, length)."""
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def plain_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Loss of every token but the first, from one forward with whole logits: what a user's script does."""
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
