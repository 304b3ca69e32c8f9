"""A tiny model with a byte tokenizer on disk, and text of its own to fit on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from search_models import save_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with window 64."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen documents of some 1,500 characters."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    words = ["rope", "walk", "strand", "hemp", "twist", "pull", "long", "lane", "spin", "yarn", "turn", "lay"]
    for number in range(16):
        (folder / f"{number:02d}.txt").write_text(" ".join(rng.choices(words, k=300)), encoding="utf-8")
    return folder
