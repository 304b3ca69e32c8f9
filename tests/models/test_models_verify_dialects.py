"""A base that Gemma 3 keeps in its old keys counts before the class's own default, as in stock transformers."""

from __future__ import annotations

from typing import Any

import pytest

import ropewalk
from ropewalk.models.facts import read_facts
from ropewalk.models.proof.checks import dialects
from ropewalk.models.writing.carrier import config_with


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma3n_text", "olmo3"])
def test_the_old_keys_of_nested_types_are_read_and_agree_after_a_stretch(model_type: str) -> None:
    config: dict[str, Any] = {
        "model_type": model_type,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_theta": 5e6,
    }
    facts = read_facts(config)
    assert facts.ropes["full_attention"].geometry.rope_theta == 5e6
    assert facts.ropes["sliding_attention"].geometry.rope_theta != 5e6
    for method in ("ntk", "linear", "yarn", "mrrope-pro"):
        schedule = ropewalk.schedule(method, facts.geometry, factor=4.0)
        check = dialects(config_with(config, schedule))
        assert check.status == "pass", (method, check.detail)
