"""A byte tokenizer, a little text and a recipe that trains in a second."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Recipe = dict[str, Any]


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer with one token a byte and an end-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)} | {"<end>": len(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of 60 to 900 characters."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    words = ["rope", "walk", "strand", "hemp", "twist", "pull", "long", "lane", "spin", "yarn", "turn", "lay"]
    for number in range(12):
        text = " ".join(rng.choices(words, k=12 + 13 * number))
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def tiny(byte_tokenizer: Path, text_folder: Path) -> Callable[..., Recipe]:
    """`tiny(**changes)`: a whole recipe as a dictionary, two layers of 16 hidden units, 8 steps of 32 tokens."""
    base: Recipe = {
        "name": "tiny",
        "model": {
            "init": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 32,
                "tie_word_embeddings": True,
                "attention_dropout": 0.1,
            },
            "tokenizer": str(byte_tokenizer),
        },
        "data": {"sources": [{"name": "text", "kind": "text", "paths": [str(text_folder)]}]},
        "stages": [{"length": 32, "steps": 8}],
        "tokens_per_step": 128,
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "checkpoints": {"every": 3, "keep_last": None},
        "log_every": 1,
    }

    def make(**changes: Any) -> Recipe:
        return copy.deepcopy(base | changes)

    return make
