"""Facts from every dialect and structure, without transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.models.facts import read_facts
from ropewalk.models.stretch import kept_parameters

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}


def example(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def test_a_plain_model():
    facts = read_facts(example("llama-2-7b"))
    assert (facts.num_layers, facts.num_kv_heads, facts.head_dim, facts.dtype) == (32, 32, 128, "float16")
    assert facts.geometry == ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
    assert not facts.rope.is_scaled
    assert facts.layers.full_rope == tuple(range(32))


@pytest.mark.parametrize(
    ("given", "heads"),
    [
        ({"num_kv_heads": 71, "multi_query": True}, 1),
        ({}, 1),
        ({"multi_query": False}, 71),
        ({"num_kv_heads": 8, "new_decoder_architecture": True}, 8),
    ],
)
def test_falcon_has_one_key_head_where_its_class_has_one(given, heads):
    config = {
        "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 2,
        "vocab_size": 65024, "max_position_embeddings": 2048, "alibi": False,
    }  # fmt: skip
    assert read_facts(config | given).num_kv_heads == heads


def test_a_scaled_model_keeps_its_original_geometry():
    facts = read_facts(example("llama-3.1-8b"))
    assert facts.original_length == 8192
    assert facts.max_position_embeddings == 131072
    made = facts.rope.schedule
    assert (made.method, made.factor, made.attention_factor) == ("llama3", 8.0, 1.0)
    assert made.stretch[0] == 1.0
    assert made.stretch[-1] == pytest.approx(8.0)


def test_yarn_takes_its_attention_factor():
    facts = read_facts(example("qwen3-8b-yarn"))
    assert facts.original_length == 32768
    assert facts.rope.schedule.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_nested_entries_from_the_old_keys():
    facts = read_facts(example("gemma-3-4b"))
    assert facts.text_path == ("text_config",)
    assert set(facts.ropes) == {"full_attention", "sliding_attention"}
    assert facts.main == "full_attention"
    assert (facts.geometry.rope_theta, facts.original_length, facts.rope.factor) == (1e6, 16384, 8.0)
    sliding = facts.ropes["sliding_attention"]
    assert (sliding.geometry.rope_theta, sliding.is_scaled) == (1e4, False)
    assert len(facts.layers.sliding) == 29
    assert facts.sliding_window == 1024


def test_mla_counts_only_its_decoupled_part():
    facts = read_facts(example("deepseek-v3"))
    assert facts.geometry.rotary_dim == 64
    assert facts.head_dim == 192
    assert facts.value_dim == 128
    assert facts.mla["kv_lora_rank"] == 512
    assert facts.experts == {
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
    }
    # mscale over mscale_all_dim is 1 on cos and sin; the temperature sits on the softmax instead.
    assert facts.rope.schedule.attention_factor == 1.0
    assert facts.rope.softmax_scale == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    assert kept_parameters(facts)["yarn"] == {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    assert list(kept_parameters(facts)) == ["yarn"]


SAME = [
    {"rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 4096}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}},
    {
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 8.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 4096,
        },
    },
    {"rope_scaling": {"type": "yarn", "factor": 8.0}, "original_max_position_embeddings": 4096},
    {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 4096}},
    {
        "head_dim": 128,
        "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096},
    },
    {
        "head_dim": None,
        "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096},
    },
]


@pytest.mark.parametrize("change", SAME)
def test_every_spelling_of_the_same_scaling(change):
    facts = read_facts(LLAMA | {"max_position_embeddings": 32768} | change)
    expected = ropewalk.schedule("yarn", facts.geometry, factor=8.0)
    assert facts.original_length == 4096
    np.testing.assert_array_equal(facts.rope.schedule.inv_freq, expected.inv_freq)
    assert facts.rope.schedule.attention_factor == expected.attention_factor


@pytest.mark.parametrize(
    ("config", "rotary_dim", "half_dim"),
    [
        ({"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "rotary_pct": 0.25}, 4, 2),
        ({"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4}, 4, 2),
        ({"model_type": "phi", "hidden_size": 64, "num_attention_heads": 4, "partial_rotary_factor": 0.5}, 8, 4),
        ({"model_type": "glm4", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}, 16, 8),
        ({"model_type": "gptj", "n_embd": 128, "n_head": 2, "rotary_dim": 32}, 32, 16),
        ({"model_type": "gptj", "n_embd": 128, "n_head": 2, "rotary_dim": None}, 64, 32),
        ({"model_type": "minimax_m2", "head_dim": 64, "rotary_dim": 32}, 32, 16),
        ({"model_type": "gemma4_text"}, 512, 256),
        ({"model_type": "gemma4_text", "global_head_dim": 64}, 64, 32),
        ({"model_type": "deepseek_v2", "qk_rope_head_dim": 32}, 32, 16),
        ({"model_type": "zamba2", "use_mem_rope": True, "hidden_size": 64, "num_attention_heads": 4}, 32, 16),
        ({"model_type": "qwen3_moe", "head_dim": 128, "hidden_size": 2048, "num_attention_heads": 32}, 128, 64),
        ({"model_type": "falcon", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 99}, 16, 8),
        ({"model_type": "my-own", "rotary_pct": 0.5, "hidden_size": 64, "num_attention_heads": 4,
          "num_hidden_layers": 2, "max_position_embeddings": 99}, 8, 4),
        ({"model_type": "my-own", "rotary_dim": 12, "head_dim": 32, "hidden_size": 64, "num_attention_heads": 4,
          "num_hidden_layers": 2, "max_position_embeddings": 99}, 12, 6),
    ],
)  # fmt: skip
def test_which_dimensions_rotate(config, rotary_dim, half_dim):
    geometry = ropewalk.read_geometry(config)
    assert (geometry.rotary_dim, geometry.half_dim) == (rotary_dim, half_dim)


def test_a_proportional_entry_has_a_zero_tail():
    facts = read_facts({"model_type": "gemma4_text", "global_head_dim": 64})
    assert facts.geometry.proportional
    assert facts.geometry.num_rotating == 8
    assert facts.geometry.inv_freq[8:].tolist() == [0.0] * 24


@pytest.mark.parametrize(
    ("config", "full", "no_rope", "sliding"),
    [
        ({"model_type": "smollm3", "num_hidden_layers": 8}, 6, 2, 0),
        ({"model_type": "llama4_text", "num_hidden_layers": 8}, 0, 2, 6),
        ({"model_type": "llama4_text", "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]}, 0, 2, 2),
        ({"model_type": "cohere2", "num_hidden_layers": 8}, 0, 2, 6),
        ({"model_type": "gpt_oss", "num_hidden_layers": 4}, 2, 0, 2),
        ({"model_type": "mistral", "num_hidden_layers": 4}, 0, 0, 4),
        ({"model_type": "mistral", "num_hidden_layers": 4, "sliding_window": None}, 4, 0, 0),
        (LLAMA | {"model_type": "my-own", "num_hidden_layers": 4, "sliding_window": 99}, 0, 0, 4),
        (
            LLAMA
            | {
                "model_type": "my-own",
                "num_hidden_layers": 4,
                "sliding_window": 99,
                "use_sliding_window": False,
            },
            4,
            0,
            0,
        ),
        ({"model_type": "qwen3_next", "num_hidden_layers": 8}, 2, 0, 0),
        ({"model_type": "gemma3_text", "num_hidden_layers": 8, "sliding_window_pattern": 2}, 4, 0, 4),
        (
            {
                "model_type": "qwen2",
                "num_hidden_layers": 8,
                "use_sliding_window": True,
                "max_window_layers": 6,
            },
            6,
            0,
            2,
        ),
        ({"model_type": "qwen2", "num_hidden_layers": 8, "sliding_window": 1024}, 8, 0, 0),
        ({"model_type": "bamba", "num_hidden_layers": 4, "attn_layer_indices": [1, 3]}, 2, 0, 0),
    ],
)
def test_which_layers_do_what(config, full, no_rope, sliding):
    layers = read_facts(config).layers
    assert (len(layers.full_rope), len(layers.no_rope), len(layers.sliding)) == (full, no_rope, sliding)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"model_type": "jamba"},
        {"model_type": "mamba"},
        {"model_type": "bloom"},
        {"model_type": "falcon", "alibi": True},
        {"model_type": "zamba2", "use_mem_rope": False},
        {"model_type": "granitemoehybrid"},
        {"model_type": "bamba"},
        {"model_type": "nobody-knows", "hidden_size": 64},
    ],
)
def test_models_without_rotation_say_so(config):
    with pytest.raises(RopewalkError) as caught:
        read_facts(config)
    assert "rotary embeddings" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_theta": "10000"}, "rope_theta='10000'"),
        ({"rope_theta": 1.0}, "rope_theta=1"),
        ({"rope_theta": -5}, "rope_theta=-5"),
        ({"rope_theta": 10**400}, "not a finite number"),
        ({"head_dim": 15}, "rotary_dim=15"),
        ({"head_dim": 0}, "head_dim=0"),
        ({"hidden_size": 16, "num_attention_heads": 32}, "leaves no pair"),
        ({"num_hidden_layers": 10**12}, "beyond any model"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
        ({"max_position_embeddings": True}, "max_position_embeddings=True"),
        ({"rope_scaling": [1]}, "rope_scaling=[1] is not a mapping"),
        ({"rope_scaling": {"rope_type": 7, "factor": 2}}, "rope_type=7"),
        ({"model_type": 3}, "model_type=3"),
        ({"rope_scaling": {"rope_type": "default", "rope_theta": "\x1b[2J"}}, r"\x1b[2J"),
    ],
)
def test_values_that_no_reader_could_use(change, says):
    with pytest.raises(RopewalkError) as caught:
        read_facts(LLAMA | change)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_cannot_be_computed_is_a_problem_not_a_crash():
    facts = read_facts(LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": -3}})
    assert facts.rope.schedule is None
    assert "factor=-3" in facts.rope.problem
    dynamic = read_facts(LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}})
    assert dynamic.rope.schedule is None
    assert dynamic.rope.factor == 4.0
    assert dynamic.original_length == 4096


def test_longrope_is_read_with_both_sets():
    long, short = [1.0 + i for i in range(64)], [1.0] * 64
    facts = read_facts(
        LLAMA
        | {
            "max_position_embeddings": 131072,
            "rope_scaling": {"type": "longrope", "long_factor": long, "short_factor": short},
            "original_max_position_embeddings": 4096,
        }
    )
    made = facts.rope.schedule
    np.testing.assert_allclose(made.stretch, long)
    np.testing.assert_array_equal(made.short_inv_freq, facts.geometry.inv_freq)
    assert made.attention_factor == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_layer_types_without_rotation_are_left_out():
    config = {
        "model_type": "cohere_compass_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "rope_parameters": {"sliding_attention": {"rope_theta": 10000.0}, "full_attention": None},
    }
    assert list(read_facts(config).ropes) == ["sliding_attention"]


def test_the_table_names_its_version():
    from ropewalk.models.structure.table import row_of, rows, transformers_version

    assert transformers_version()[0] == "5"
    assert len(rows()) > 300
    assert row_of(["llama"]) is None
    assert row_of("llama")["theta"] == 10000.0


def test_a_base_by_layer_overrides_the_dictionarys():
    config = {
        "model_type": "granite_swa",
        "num_hidden_layers": 4,
        "layer_rope_theta": [5e5, 1e4, 0, 1e4],
        "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
    }
    facts = read_facts(config)
    assert facts.geometry.rope_theta == 5e5
    assert facts.layers.no_rope == (2,)


def test_a_note_about_another_head_is_not_used():
    from ropewalk.models.writing.carrier import config_with

    made = ropewalk.schedule("ntk", ropewalk.read_geometry(LLAMA), factor=4.0)
    config = config_with(LLAMA, made)
    assert read_facts(config).original_length == 4096
    assert read_facts(config | {"head_dim": 64}).geometry.head_dim == 64
