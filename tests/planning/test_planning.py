from __future__ import annotations

import math

import numpy as np
import pytest
import yaml

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.planning import (
    ModelShape,
    advise,
    fine_tune_cost,
    inference_memory,
    options_for,
    training_memory,
)
from ropewalk.planning.memory import kv_cache_bytes

GIB = 1 << 30
LLAMA_2_7B = ModelShape(32, 4096, 11008, 32000, 32, 32, 128)
LLAMA_3_8B = ModelShape(32, 4096, 14336, 128256, 32, 8, 128)
LLAMA = ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}


def test_parameter_counts_of_known_models():
    assert LLAMA_2_7B.num_parameters == 6_738_415_616
    assert LLAMA_3_8B.num_parameters == 8_030_261_248
    mixtral = ModelShape(32, 4096, 14336, 32000, 32, 8, 128, num_experts=8, experts_per_token=2)
    assert mixtral.num_parameters == pytest.approx(46.7e9, rel=0.001)
    assert mixtral.active_parameters == pytest.approx(12.75e9, rel=0.01)


def test_kv_cache_of_known_models():
    assert kv_cache_bytes(LLAMA_2_7B, 32768, "bfloat16") == 16 * GIB
    assert kv_cache_bytes(LLAMA_3_8B, 131072, "bfloat16") == 16 * GIB
    sliding = ModelShape(32, 4096, 14336, 32000, 32, 8, 128, window_layers=24, window=4096)
    assert kv_cache_bytes(sliding, 131072, "bfloat16") == (8 * 131072 + 24 * 4096) * 2 * 8 * 128 * 2


def test_inference_counts_the_surprise_of_whole_logits():
    memory = inference_memory(LLAMA_3_8B, 131072)
    assert memory.logits_whole == pytest.approx(62.6 * GIB, rel=0.01)
    assert memory.total() < memory.weights + memory.kv_cache["bfloat16"] + GIB


def test_each_saving_saves():
    plain = training_memory(LLAMA_2_7B, 32768, checkpointing=False, chunked_loss=False)
    checkpointed = training_memory(LLAMA_2_7B, 32768, checkpointing=True, chunked_loss=False)
    chunked = training_memory(LLAMA_2_7B, 32768)
    offloaded = training_memory(LLAMA_2_7B, 32768, offload="cpu")
    lora = training_memory(LLAMA_2_7B, 32768, lora_rank=16)
    totals = [memory.total for memory in (plain, checkpointed, chunked, offloaded)]
    assert totals == sorted(totals, reverse=True)
    assert lora.optimiser < chunked.optimiser / 100
    assert chunked.optimiser == LLAMA_2_7B.num_parameters * 12
    assert offloaded.offloaded == 32 * 32768 * 4096 * 2
    sharded = training_memory(LLAMA_2_7B, 32768, shards=8)
    assert sharded.optimiser == chunked.optimiser // 8
    assert sharded.weights > chunked.weights // 8


def test_cost_of_the_published_budget():
    published, small = fine_tune_cost(LLAMA_2_7B, 32768)
    assert published.tokens == 400 * 64 * 32768
    assert small.tokens < published.tokens
    assert published.flops > 6 * 6.6e9 * published.tokens


def test_options_hold_every_method_and_the_fitted_variants():
    options = options_for(LLAMA, 32768)
    labels = [option.label for option in options]
    assert set(ropewalk.methods()) <= set(labels)
    reaching = next(option for option in options if option.label == "ntk, reaching")
    assert reaching.out_of_bound_pairs == 0
    assert reaching.effective_factor == pytest.approx(8)
    small = options_for(ropewalk.RopeGeometry(64, 1e4, 512), 4096)
    assert {"yarn, fitted betas", "by-parts, fitted betas"} <= {option.label for option in small}


def test_one_pair_still_has_options():
    labels = [option.label for option in options_for(ropewalk.RopeGeometry(2, 1e4, 512), 4096)]
    assert "linear" in labels
    assert "ntk" not in labels


def test_advice_says_on_what_it_rests():
    for geometry, target, said in (
        (LLAMA, 32768, "Only measurement decides"),
        (LLAMA, 4096, "inside the window"),
        (LLAMA, 131072, "needs fine-tuning"),
        (ropewalk.RopeGeometry(64, 1e4, 512), 4096, "betas follow the geometry"),
        (ropewalk.RopeGeometry(64, 1e4, 131072), 262144, "every pair completes a turn"),
    ):
        advice = advise(geometry, target, options_for(geometry, target))
        assert said in advice.why
        assert advice.train == (target / geometry.original_length > 8)


def test_plan_reads_a_configuration_without_torch(tmp_path):
    made = ropewalk.plan(CONFIG, "8x", memory="24GB", gpus=2)
    document = made.to_json()
    assert document["factor"] == 8
    assert document["memory"]["inference"]["fits"] is False
    assert document["recommendation"]["method"] == "yarn"
    assert document["recommendation"]["why"]
    assert "accelerate launch --num_processes 2" in document["launch"]
    assert made.longest_inference() == 16384


def test_the_recipe_is_one_that_train_accepts(tmp_path):
    from ropewalk.training.recipe.reading import read_recipe

    for memory, gpus in ((None, 1), ("24GB", 1), ("80GB", 8), ("24GB", 8)):
        recipe = ropewalk.plan(CONFIG | {"_name": "x"}, "8x", memory=memory, gpus=gpus).recipe()
        recipe["model"]["path"] = "somewhere"
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        read = read_recipe(path)
        assert read.stages[-1].length == 32768
        assert read.rope.method == "yarn"


def test_the_plainest_set_up_that_fits_is_chosen():
    """Llama-2-7B to 32k: alone it needs adapters; eight devices divide the weights, then share the sequence."""
    chosen = {
        (memory, gpus): ropewalk.plan(CONFIG, "8x", memory=memory, gpus=gpus).setup
        for memory, gpus in (("24GB", 1), ("24GB", 8), ("80GB", 8), ("200GB", 1), ("1GB", 1))
    }
    assert chosen["200GB", 1].name == "full, checkpointed, chunked loss"
    assert chosen["200GB", 1].recipe() == {"precision": "bfloat16", "memory": {"checkpointing": True}}
    assert chosen["24GB", 1].lora
    assert chosen["80GB", 8].sharing == 1
    assert chosen["80GB", 8].recipe()["engine"] == {"name": "fsdp2"}
    shared = chosen["24GB", 8]
    assert shared.sharing > 1
    assert shared.recipe()["engine"] == {"name": "fsdp2", "context_parallel": shared.sharing}
    assert shared.memory.total <= 24e9
    assert chosen["1GB", 1].memory.total > 1e9


@pytest.mark.parametrize("target", ["2k", "0.5x", "lots", "0"])
def test_bad_targets_are_refused(target):
    with pytest.raises(RopewalkError, match=r"target|length"):
        ropewalk.plan(CONFIG, target)


def test_schedules_of_a_plan_are_the_ones_that_methods_make():
    made = ropewalk.plan(CONFIG, "32k")
    by_label = {option.label: option for option in made.options}
    assert np.array_equal(
        by_label["yarn"].schedule.inv_freq, ropewalk.schedule("yarn", LLAMA, target_length=32768).inv_freq
    )
    assert math.isclose(made.base_bound, 6.33e5, rel_tol=0.01)
