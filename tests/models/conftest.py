"""Small checkpoints on disk, made once, and models in memory, made for each test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny

from ropewalk.models.load import quiet_transformers

WORDS = {f"w{index}": index for index in range(128)}


def add_tokenizer(folder: Path) -> None:
    """The smallest tokenizer that loads, with every file that should travel along."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 64, "eos_token_id": 2}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")


@pytest.fixture(scope="session")
def _llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    with quiet_transformers():
        tiny.tiny_model("llama").save_pretrained(folder, max_shard_size="200KB")
    add_tokenizer(folder)
    return folder


@pytest.fixture
def llama(_llama: Path, tmp_path: Path) -> Path:
    """A sharded tiny Llama with tokenizer and card: window 64, rope_theta 10000, head_dim 16."""
    folder = tmp_path / "llama"
    shutil.copytree(_llama, folder)
    return folder
