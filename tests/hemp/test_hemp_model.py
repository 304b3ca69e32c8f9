"""The shipped model is what its card says: it retrieves inside its window and breaks beyond."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ropewalk
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.retrieval.run import run_tasks
from ropewalk.hemp import folder
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.text.corpus import held_out_documents
from ropewalk.text.segments import cut

WINDOW = 512
LIMIT_BYTES = 16 * 1024**2


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model("hemp"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("hemp")


@pytest.fixture(scope="module")
def losses(engine: Engine, tokenizer) -> torch.Tensor:
    """Loss of 2048 tokens of twelve held-out modules, one row a module."""
    rows = [item.ids for item in cut(held_out_documents(), tokenizer, 4 * WINDOW, limit=12).items]
    return engine.nll(np.stack(rows))


def test_the_folder_is_small_and_whole() -> None:
    names = {path.name for path in folder().iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in folder().iterdir()) <= LIMIT_BYTES


def test_both_dialects_say_the_same() -> None:
    config = json.loads((folder() / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}
    assert (config["rope_theta"], config["rope_scaling"]) == (10000.0, None)
    assert config["max_position_embeddings"] == WINDOW
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"] is True


def test_it_has_the_size_that_its_card_says() -> None:
    tensors = load_file(folder() / "model.safetensors")
    assert 5_000_000 <= sum(tensor.numel() for tensor in tensors.values()) <= 8_000_000
    assert "lm_head.weight" not in tensors


def test_it_is_a_name_and_a_folder() -> None:
    geometry = ropewalk.read_geometry("hemp")
    assert (geometry.head_dim, geometry.rope_theta, geometry.original_length) == (64, 10000.0, WINDOW)
    assert ropewalk.read_geometry(folder()) == geometry


def test_stock_transformers_loads_and_continues_it() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder())
    prompt = "The pass key is 48213. Remember it.\nWhat is the pass key? The pass key is"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6)[0, ids.shape[1] :]
    assert tokenizer.decode(written) == " 48213"


@pytest.mark.parametrize("task", ["passkey", "needle", "kv"])
def test_it_retrieves_at_every_depth_of_its_window(engine: Engine, tokenizer, task: str) -> None:
    rows = run_tasks(engine, tokenizer, tasks=[task], lengths=[WINDOW], depths=5, samples=20, seed=11)
    assert [row["depth"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for row in rows:
        assert row["accuracy"] >= 0.95, row


def test_it_finds_nothing_at_eight_times_its_window(engine: Engine, tokenizer) -> None:
    rows = run_tasks(
        engine, tokenizer, tasks=["passkey"], lengths=[8 * WINDOW], depths=[0.1], samples=3, seed=11
    )
    assert rows[0]["accuracy"] == 0.0


def test_loss_falls_with_context_up_to_the_window(engine: Engine, tokenizer) -> None:
    """The same 32 tokens a row, with more and more before them: what stands where cannot play a part."""
    rows = [item.ids for item in cut(held_out_documents(), tokenizer, WINDOW, limit=48).items]
    found = [
        float(engine.nll(np.stack([row[-context:] for row in rows]))[:, -32:].mean())
        for context in (48, 128, WINDOW)
    ]
    assert found == sorted(found, reverse=True)


def test_loss_breaks_beyond_the_window(losses: torch.Tensor) -> None:
    inside = losses[:, WINDOW // 2 : WINDOW - 1].mean()
    beyond = losses[:, 2 * WINDOW :].mean()
    assert float(beyond - inside) > 0.5
