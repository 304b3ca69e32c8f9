"""The configurations of well-known releases: read as their classes compute them, and never called broken."""

from __future__ import annotations

import json
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
