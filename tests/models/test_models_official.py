"""The configurations of well-known releases: read as their classes compute them, and never called broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from official import OFFICIAL

from ropewalk.models.defects.findings import find
from ropewalk.models.facts import read_facts
from ropewalk.models.live.built import NotHereError, disagreement, stock_model, stock_spectra
from ropewalk.models.proof.checks import frequencies


def _small(config: dict[str, Any], layers: int = 6) -> dict[str, Any]:
    """The same rotation with fewer layers, so that sixty classes are built in seconds."""
    if "text_config" in config:
        return config | {"text_config": _small(config["text_config"], layers)}
    lists = {
        name: value[:layers] for name, value in config.items() if name in ("layer_types", "no_rope_layers")
    }
    return config | lists | {"num_hidden_layers": layers}


def test_there_are_enough_of_them():
    assert len(OFFICIAL) >= 60


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_release_is_not_called_broken(name):
    config = OFFICIAL[name]
    errors = [f"{finding.id}: {finding.message}" for finding in find(config) if finding.severity == "error"]
    assert errors == []
    assert read_facts(config).rope.problem is None


@pytest.mark.parametrize("name", OFFICIAL)
def test_geometry_and_schedule_are_what_its_class_computes(name):
    config = _small(OFFICIAL[name])
    facts = read_facts(config)
    made = facts.rope.schedule
    assert made is not None
    model = stock_model(config)
    far = stock_spectra(model, facts, made.geometry.original_length + 2)
    assert far
    for found in far:
        np.testing.assert_allclose(found.inv_freq, made.inv_freq, rtol=1e-5, atol=1e-12)
        assert found.attention_factor == pytest.approx(made.attention_factor, rel=1e-5)
    for found in stock_spectra(model, facts, 1):
        near = made.inv_freq if made.short_inv_freq is None else made.short_inv_freq
        np.testing.assert_allclose(found.inv_freq, near, rtol=1e-5, atol=1e-12)


def test_infinities_of_state_space_models_reach_their_class_as_numbers():
    config = json.loads(tiny.tiny_config("bamba").to_json_string(use_diff=False))
    assert "__float__" in json.dumps(config)
    assert disagreement(config, read_facts(config)) is None


def test_what_is_not_installed_is_no_fault_of_the_file(monkeypatch):
    import transformers

    def missing(*_args: Any, **_kwargs: Any) -> None:
        raise ImportError("needs timm")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", missing)
    config = OFFICIAL["llama-3-8b"]
    with pytest.raises(NotHereError, match="needs timm"):
        stock_model(config)
    assert frequencies(config).status == "skip"
    with pytest.raises(NotHereError, match="no class for"):
        stock_model(config | {"model_type": "kimi_k2"})


@pytest.mark.parametrize(("apart", "agrees"), [(2e-6, True), (5e-5, False), (5e-4, False)])
@pytest.mark.parametrize("name", ["factor", "attention_factor"])
def test_a_class_that_computes_slightly_other_values_disagrees(name, apart, agrees):
    """Float32 leaves about 1e-7: frequencies, or an attention factor, that miss by more than 1e-5 are others."""
    scaling = {
        "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.2, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 64, "max_position_embeddings": 256, "rope_theta": 10000.0,
    }  # fmt: skip
    facts = read_facts(config | {"rope_scaling": scaling})
    other = scaling | {name: scaling[name] * (1 + apart)}
    found = disagreement(config | {"rope_scaling": other}, facts)
    assert (found is None) is agrees
    assert agrees or f"off by {apart:.2g}" in found


# (row of docs/families.md, words in it, the release, what these words say of its configuration)
SAID = [
    ("Llama 3", "8k at base 500,000", "llama-3-8b", {"max_position_embeddings": 8192, "rope_theta": 5e5}),
    (
        "Llama 3.1, 3.3",
        "factor 8, low 1, high 4",
        "llama-3.1-8b",
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    ("Llama 3.2", "the same with factor 32", "llama-3.2-1b", {"factor": 32.0, "rope_type": "llama3"}),
    (
        "Llama 4",
        "`llama3` 16 (low = high = 1) in the chunks and declares 10m",
        "llama-4-scout",
        {
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 1.0,
            "max_position_embeddings": 10485760,
        },
    ),
    ("Llama 4", "chunks of 8,192 tokens", "llama-4-scout", {"attention_chunk_size": 8192}),
    ("Mistral 7B v0.1", "every layer sees 4,096 tokens", "mistral-7b-v0.1", {"sliding_window": 4096}),
    ("Mistral Nemo and later", "128k at base 1e6", "mistral-nemo-12b", {"rope_theta": 1e6}),
    ("Gemma 1, 2", "layers of 4,096 tokens", "gemma-2-9b", {"sliding_window": 4096, "rope_theta": 1e4}),
    (
        "Gemma 3",
        "see 1,024 tokens at base 10,000; the sixth has base 1e6 and `linear` factor 8 to 128k",
        "gemma-3-27b",
        {"sliding_window": 1024, "rope_local_base_freq": 1e4, "rope_theta": 1e6, "factor": 8.0},
    ),
    ("Phi-4-mini", "LongRoPE on three quarters of each head", "phi-4-mini", {"partial_rotary_factor": 0.75}),
    ("Phi-4-mini", "4k in the file", "phi-4-mini", {"original_max_position_embeddings": 4096}),
    (
        "DeepSeek V2",
        "YaRN factor 40 (a target of 160k) with mscale 0.707",
        "deepseek-v2-lite",
        {"factor": 40, "mscale": 0.707, "max_position_embeddings": 163840},
    ),
    ("DeepSeek V3", "YaRN factor 40, mscale 1", "deepseek-v3", {"factor": 40, "mscale": 1.0}),
    (
        "gpt-oss",
        "YaRN factor 32, `truncate: false`, base 150,000, to 128k; every other layer sees 128 tokens",
        "gpt-oss-20b",
        {"factor": 32.0, "truncate": False, "rope_theta": 150000, "sliding_window": 128},
    ),
    ("GLM-4.5", "base 1e6", "glm-4.5", {"rope_theta": 1e6, "partial_rotary_factor": 0.5}),
    ("Command R", "base 8e6 (R)", "command-r-v01", {"rope_theta": 8e6, "max_position_embeddings": 8192}),
    ("Command R7B, Command A", "rotate inside 4,096 tokens", "command-r7b", {"sliding_window": 4096}),
    (
        "Kimi K2",
        "from base 50,000 with `beta_fast = beta_slow = 1`",
        "kimi-k2",
        {"rope_theta": 5e4, "beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    ),
]


@pytest.mark.parametrize(("row", "words", "release", "values"), SAID, ids=lambda value: str(value)[:24])
def test_the_page_of_families_says_what_the_files_hold(row, words, release, values):
    lines = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(f"| {row} |")]
    assert words in line
    config = OFFICIAL[release]
    held = config | config.get("text_config", {})
    held |= held.get("rope_scaling") or {}
    assert {name: held[name] for name in values} == values
