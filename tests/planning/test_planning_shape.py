"""Parameters and stored bytes against published sizes, against a count by hand, and against the real classes."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
from published import DEEPSEEK_V3, GPT_OSS_20B, KIMI_K2, PUBLISHED

from ropewalk.models.facts import read_facts
from ropewalk.plan import shape_of
from ropewalk.planning import Experts, Latent, ModelShape, Stored

PLAIN = ModelShape(7, 48, 112, 1000, 6, 2, 8)


def _shape(config):
    return shape_of(read_facts(config))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameters_are_the_published_ones(name):
    config, billions = PUBLISHED[name]
    assert _shape(config).num_parameters / 1e9 == pytest.approx(billions, rel=0.002)


# As the model cards count them, input embedding left out where it is looked up.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mixtral-8x7b", 12.75),
        ("gpt-oss-20b", 3.6),
        ("gpt-oss-120b", 5.1),
        ("deepseek-v3", 36.6),
        ("kimi-k2", 31.7),
    ],
)
def test_active_parameters_are_the_published_ones(name, billions):
    assert _shape(PUBLISHED[name][0]).active_parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("matrices", [2, 3])
@pytest.mark.parametrize("value_dim", [None, 5])
@pytest.mark.parametrize("experts", [None, (0, 1, 5, 20, 0), (2, 1, 5, 20, 9), (0, 2, 5, 20, 9)])
@pytest.mark.parametrize("latent", [None, (None, 12, 4, 4), (11, 12, 4, 4)])
def test_every_matrix_is_counted_once(tied, matrices, value_dim, experts, latent):
    sizes = {"layers": 7, "hidden": 48, "heads": 6, "kv_heads": 2 if latent is None else 6, "head_dim": 8}
    counted = by_hand.parameters(
        vocab=1000,
        matrices=matrices,
        width=112,
        tied=tied,
        experts=experts,
        latent=latent,
        value_dim=value_dim,
        **sizes,
    )
    routed = None
    if experts is not None:
        layers = sum(i >= experts[0] and (i + 1) % experts[1] == 0 for i in range(7))
        routed = Experts(count=5, active=2, size=20, shared=experts[4], layers=layers)
    shape = replace(
        PLAIN,
        num_kv_heads=sizes["kv_heads"],
        tie_embeddings=tied,
        mlp_projections=matrices,
        value_dim=value_dim,
        experts=routed,
        latent=None if latent is None else Latent(q_rank=latent[0], kv_rank=12, rotary=4, plain=4),
    )
    assert shape.num_parameters == counted
    lookup = 0 if tied else 1000 * 48
    idle = 0 if routed is None else 3 * routed.layers * matrices * 48 * 20
    assert shape.active_parameters == counted - lookup - idle


@pytest.mark.parametrize("active", [0, 1, 2, 5])
def test_a_token_passes_at_least_one_expert(active):
    routed = replace(PLAIN, experts=Experts(count=5, active=active, size=20))
    idle = 7 * (5 - max(active, 1)) * 3 * 48 * 20
    assert routed.active_parameters == routed.num_parameters - 48_000 - idle


def test_dbrx_keeps_its_feed_forward_apart():
    config = {
        "model_type": "dbrx", "d_model": 48, "n_heads": 6, "n_layers": 7, "max_seq_len": 64, "vocab_size": 1000,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
    }  # fmt: skip
    given = {"ffn_hidden_size": 20, "moe_num_experts": 5, "moe_top_k": 2}
    shape = _shape(config | {"ffn_config": given})
    assert shape.experts == Experts(count=5, active=2, size=20, shared=0, layers=7)
    assert (shape.intermediate_size, shape.mlp_projections) == (20, 3)
    # What DbrxFFNConfig has where nothing is given.
    assert _shape(config).experts == Experts(count=4, active=1, size=3584, shared=0, layers=7)


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ({}, 7),
        ({"moe_layers": []}, 7),
        ({"moe_layers": [1, 4, 5]}, 3),
        ({"interleave_moe_layer_step": 2}, 3),
        ({"decoder_sparse_step": 3}, 2),
        ({"mlp_only_layers": [0, 6]}, 5),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [0, 1]}, 2),
        ({"first_k_dense_replace": 2}, 5),
    ],
)
def test_layers_with_experts_are_counted(given, layers):
    config = {
        "model_type": "deepseek_v3" if "first_k_dense_replace" in given else "qwen3_moe", "hidden_size": 48,
        "num_attention_heads": 6, "num_key_value_heads": 6, "num_hidden_layers": 7, "vocab_size": 1000,
        "intermediate_size": 112, "moe_intermediate_size": 20, "num_experts": 5, "n_routed_experts": 5,
        "num_experts_per_tok": 2, "max_position_embeddings": 64, "rope_theta": 10000.0,
    }  # fmt: skip
    if "first_k_dense_replace" in given:
        config |= {"kv_lora_rank": 12, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
    assert _shape(config | given).expert_layers == layers


def test_an_exact_count_wins():
    assert replace(PLAIN, parameters=12345).num_parameters == 12345
    assert replace(PLAIN, parameters=100_000).active_parameters == 100_000 - 48_000
    assert replace(PLAIN, parameters=5).active_parameters == 1


def test_the_largest_layer_is_the_one_with_experts():
    routed = replace(PLAIN, experts=Experts(count=5, active=2, size=20, layers=3))
    attention = 48 * (48 + 16 + 16 + 48)
    assert routed.layer_parameters == attention + 3 * 48 * 5 * 20 + 5 * 48 + 2 * 48
    assert PLAIN.layer_parameters == attention + 3 * 48 * 112 + 2 * 48


def test_quantised_weights_take_their_bits():
    """gpt-oss-20b: 19.1B expert weights in MXFP4 (4 bits and 8 for each 32), the rest in bfloat16."""
    shape = _shape(GPT_OSS_20B)
    experts = 24 * 3 * 32 * 2880 * 2880
    assert shape.expert_parameters == experts
    assert shape.stored == Stored("mxfp4", 4.25, "experts")
    assert shape.weight_bytes("bfloat16") == pytest.approx(
        experts * 4.25 / 8 + (shape.num_parameters - experts) * 2
    )
    # The files of the release hold 13.8 GB.
    assert shape.weight_bytes("bfloat16") / 1e9 == pytest.approx(13.76, rel=0.005)
    assert _shape(PUBLISHED["gpt-oss-120b"][0]).weight_bytes("bfloat16") / 1e9 == pytest.approx(
        65.2, rel=0.005
    )


QUANTISED = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384, "projections"),
    ({"quant_method": "fp8"}, 8.0, "projections"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128, "projections"),
    ({"quant_method": "awq", "bits": 4, "group_size": 64}, 4 + 20 / 64, "projections"),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8.0, "projections"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5, "projections"),
    (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        4.127,
        "projections",
    ),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8.0, "projections"),
    ({"quant_method": "fbgemm_fp8"}, 8.0, "projections"),
    ({"quant_method": "eetq"}, 8.0, "projections"),
    ({"quant_method": "AQLM"}, 2.0, "projections"),
    ({"quantization_method": "mxfp4"}, 4.25, "experts"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, 8.0, "projections"),
    ({"quant_method": "fp8", "weight_block_size": [64, 32]}, 8 + 32 / 2048, "projections"),
    ({"quant_method": "hqq", "nbits": 3, "group_size": 32}, 3 + 19 / 32, "projections"),
    ({"quant_method": "auto-round"}, 4 + 20 / 128, "projections"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 0}, 4.0, "projections"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 1}, 24.0, "projections"),
    ({"quant_method": "bitsandbytes_4bit", "_load_in_4bit": True}, 4.5, "projections"),
    ({"quant_method": "gguf", "bits": 4.85}, 4.85, "projections"),
    ({"quant_method": "quanto", "weights": "int8"}, 8.0, "projections"),
    ({"quant_method": "quanto", "weights": "float8"}, 8.0, "projections"),
    ({"quant_method": "quanto", "weights": "int2"}, 2.0, "projections"),
    ({"quant_method": "modelopt", "quant_algo": "fp8"}, 8.0, "projections"),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 8}}}},
        8.0,
        "projections",
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": {},
                "b": {"weights": {"num_bits": 4, "group_size": 16, "symmetric": False}},
            },
            "ignored_layers": ["lm_head", 7],
        },
        4 + 20 / 16,
        "projections",
    ),
    ({"quant_method": "quanto", "weights": "int4"}, 4.0, "projections"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5, "projections"),
    (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": True}}},
            "ignore": ["lm_head", "re:.*self_attn.*"],
        },
        4 + 16 / 32,
        "experts",
    ),
]


@pytest.mark.parametrize(("entry", "bits", "part"), QUANTISED)
def test_bits_of_each_quantisation(entry, bits, part):
    shape = _shape(KIMI_K2 | {"quantization_config": entry})
    assert shape.stored is not None
    assert (shape.stored.bits, shape.stored.part) == (pytest.approx(bits), part)
    share = shape.expert_parameters if part == "experts" else shape.num_parameters - 2 * 163840 * 7168
    expected = share * bits / 8 + (shape.num_parameters - share) * 2
    assert shape.weight_bytes("bfloat16") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "entry",
    [
        {"quant_method": "brand-new"},
        {},
        {"quant_method": "gptq", "bits": "four"},
        {"quant_method": "gguf"},
        {"quant_method": "quanto", "weights": "int3"},
        {"quant_method": "compressed-tensors", "config_groups": ["a"]},
    ],
)
def test_an_unknown_quantisation_is_counted_whole_and_said(entry):
    import ropewalk

    made = ropewalk.plan(DEEPSEEK_V3 | {"quantization_config": entry or {"x": 1}}, "2x")
    assert made.shape.stored is None
    assert made.inference.weights == made.shape.num_parameters * 2
    assert "not known here" in " ".join(made.notes)


def test_packed_weights_at_hand_do_not_give_the_count():
    facts = read_facts(GPT_OSS_20B)
    assert shape_of(facts, 123).num_parameters / 1e9 == pytest.approx(20.9, rel=0.002)
    assert shape_of(read_facts(PUBLISHED["llama-2-7b"][0]), 123).num_parameters == 123


@pytest.mark.slow
def test_estimates_of_every_class_that_is_not_called_rough():
    """Tiny models of every architecture, built without memory: biases and norms weigh most in them."""
    import sys
    from pathlib import Path

    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    from ropewalk.errors import RopewalkError
    from ropewalk.models.feedforward import ROUGH

    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    import tiny

    checked, wrong = 0, {}
    for model_type in tiny.causal_types():
        try:
            config = tiny.tiny_config(model_type)
            facts = read_facts(config.to_dict())
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except (RopewalkError, ValueError, ImportError, StrictDataclassError):
            # Some classes refuse their own defaults.
            continue
        composite = facts.text_type != model_type
        if facts.text_type in ROUGH or facts.layers.other or composite or model_type in ROUGH:
            continue
        count = sum(parameter.numel() for parameter in model.parameters())
        checked += 1
        if abs(shape_of(facts).num_parameters / count - 1) > 0.08:
            wrong[model_type] = (shape_of(facts).num_parameters, count)
    assert checked > 50
    assert set(wrong) <= {"falcon", "fuyu"}, wrong
