"""Memory and cost against plain counts, and the cache of latent attention against transformers' own."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
from published import DEEPSEEK_V3, PUBLISHED

from ropewalk.models.facts import read_facts
from ropewalk.plan import shape_of
from ropewalk.planning import (
    Experts,
    ModelShape,
    Stored,
    TrainingSetting,
    fine_tune_cost,
    inference_memory,
    kv_cache_bytes,
    training_memory,
)
from ropewalk.planning.cost import mean_keys, training_flops
from ropewalk.planning.memory import lora_parameters
from ropewalk.planning.setups import choose_setup, setups

GIB = 1 << 30
LLAMA_2_7B = ModelShape(32, 4096, 11008, 32000, 32, 32, 128)
LLAMA_3_8B = ModelShape(32, 4096, 14336, 128256, 32, 8, 128)
SMALL = ModelShape(7, 48, 112, 1000, 6, 2, 8)


def test_kv_cache_of_known_models():
    assert kv_cache_bytes(LLAMA_2_7B, 32768, "bfloat16") == 16 * GIB
    assert kv_cache_bytes(LLAMA_3_8B, 131072, "bfloat16") == 16 * GIB
    assert kv_cache_bytes(LLAMA_3_8B, 131072, "int8") == 8 * GIB
    assert kv_cache_bytes(LLAMA_3_8B, 131072, "int4") == 16 * GIB * 4.5 / 16
    assert kv_cache_bytes(LLAMA_3_8B, 131072, batch=3) == 48 * GIB


def test_a_sliding_layer_keeps_its_window_and_a_layer_without_attention_nothing():
    sliding = ModelShape(32, 4096, 14336, 32000, 32, 8, 128, window_layers=24, window=4096)
    assert kv_cache_bytes(sliding, 131072) == (8 * 131072 + 24 * 4096) * 2 * 8 * 128 * 2
    assert kv_cache_bytes(sliding, 1000) == 32 * 1000 * 2 * 8 * 128 * 2
    hybrid = replace(sliding, attention_layers=3)
    assert kv_cache_bytes(hybrid, 131072) == (3 * 131072 + 24 * 4096) * 2 * 8 * 128 * 2


def test_deepseek_v3_at_256k_by_hand():
    """61 layers keep 512 + 64 numbers a token; expanded it would be 128 heads of 192 and 128."""
    memory = inference_memory(shape_of(read_facts(DEEPSEEK_V3)), 262144)
    assert memory.kv_cache["bfloat16"] == 61 * 262144 * (512 + 64) * 2
    assert memory.kv_cache["bfloat16"] / GIB == pytest.approx(17.2, abs=0.05)
    assert memory.kv_cache_expanded == 61 * 262144 * 128 * (192 + 128) * 2
    assert memory.kv_cache_expanded / (1 << 40) == pytest.approx(1.19, abs=0.01)


@pytest.mark.parametrize("name", ["deepseek_v3", "minicpm3", "llama", "deepseek_v2"])
def test_the_cache_is_as_large_as_transformers_own(name):
    import sys
    from pathlib import Path

    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    import tiny

    model = tiny.tiny_model(name)
    with torch.no_grad():
        cache = model(tiny.tokens(24), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    shape = shape_of(read_facts(model.config.to_dict()))
    assert kv_cache_bytes(shape, 24, "float32") == held


def test_inference_by_its_parts():
    memory = inference_memory(SMALL, 3000, batch=2, chunk=512)
    weights = by_hand.parameters(
        layers=7, hidden=48, heads=6, kv_heads=2, head_dim=8, vocab=1000, matrices=3, width=112, tied=False
    )
    # Residual, normed input and output, then the larger of attention (48 + 16 + 16 + 48) and the MLP (3 * 112).
    alive = 3 * 48 + 336
    assert memory.weights == 2 * weights
    assert memory.kv_cache["bfloat16"] == 2 * 7 * 3000 * 32 * 2
    assert memory.prefill_chunk == 2 * 512 * alive * 2
    assert memory.logits_whole == 2 * 3000 * 1000 * 4
    assert memory.logits_last == 2 * 1000 * 4
    assert memory.total() == sum(
        (memory.weights, memory.kv_cache["bfloat16"], memory.prefill_chunk, memory.logits_last)
    )
    assert memory.total("int8") == memory.total() - memory.kv_cache["bfloat16"] + memory.kv_cache["int8"]
    assert inference_memory(SMALL, 100).chunk == 100
    wide = replace(SMALL, num_attention_heads=60)
    assert inference_memory(wide, 512, chunk=512).prefill_chunk == 512 * (3 * 48 + 480 + 16 + 16 + 480) * 2


def test_inference_counts_the_surprise_of_whole_logits():
    memory = inference_memory(LLAMA_3_8B, 131072)
    assert memory.logits_whole == 131072 * 128256 * 4
    assert memory.total() < memory.weights + memory.kv_cache["bfloat16"] + GIB


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("matrices", [2, 3])
def test_training_by_its_parts(dtype, checkpointing, chunked, matrices):
    shape = replace(SMALL, mlp_projections=matrices, value_dim=5)
    setting = TrainingSetting(dtype=dtype, checkpointing=checkpointing, chunked_loss=chunked)
    memory = training_memory(shape, 3000, setting)
    expected = by_hand.training_bytes(
        layers=7, hidden=48, query=48, key=16, value=10, matrices=matrices, width=112, vocab=1000,
        parameters=shape.num_parameters, tokens=3000, dtype=2 if dtype == "bfloat16" else 4,
        checkpointing=checkpointing, chunked=chunked,
    )  # fmt: skip
    # The output of attention has the width of the value heads: 6 * 5 instead of the 48 that the count takes.
    narrower = 3000 * (2 if dtype == "bfloat16" else 4) * (48 - 30)
    activations = expected[3] - narrower * (1 if checkpointing else 7)
    found = (memory.weights, memory.gradients, memory.optimiser, memory.activations, memory.loss)
    assert found == (*expected[:3], activations, expected[4])
    assert memory.total == sum(found)
    assert memory.offloaded == 0


def test_offloading_moves_what_it_takes_off():
    kept = training_memory(SMALL, 3000)
    moved = training_memory(SMALL, 3000, TrainingSetting(offload="cpu"))
    checkpoint = 3000 * 48 * 2
    assert kept.activations - moved.activations == 5 * checkpoint
    assert moved.offloaded == 7 * checkpoint
    plain = training_memory(SMALL, 3000, TrainingSetting(checkpointing=False))
    aside = training_memory(SMALL, 3000, TrainingSetting(checkpointing=False, offload="cpu"))
    assert aside.activations * 7 == plain.activations * 2
    assert aside.offloaded * 7 == plain.activations * 5
    single = replace(SMALL, num_layers=1)
    assert training_memory(single, 3000, TrainingSetting(checkpointing=False, offload="cpu")).offloaded == 0


def test_lora_trains_its_adapters_alone():
    memory = training_memory(SMALL, 3000, TrainingSetting(lora_rank=4))
    adapters = 7 * 4 * ((48 + 48) + (48 + 16) + (48 + 16) + (48 + 48))
    assert lora_parameters(SMALL, 4) == adapters
    assert memory.weights == SMALL.num_parameters * 2 + adapters * 4
    assert memory.gradients == adapters * 4
    assert memory.optimiser == adapters * 8
    assert memory.activations == training_memory(SMALL, 3000).activations


def test_no_master_copy_where_none_is_wider():
    assert training_memory(SMALL, 8, TrainingSetting(master=None)).optimiser == SMALL.num_parameters * 8
    assert training_memory(SMALL, 8, TrainingSetting(dtype="float32")).optimiser == SMALL.num_parameters * 8


def test_shards_divide_and_leave_one_gathered_layer():
    alone, shared = training_memory(SMALL, 3000), training_memory(SMALL, 3000, TrainingSetting(shards=4))
    gathered = 2 * max(SMALL.layer_parameters, SMALL.embedding_parameters)
    assert shared.weights == alone.weights // 4 + gathered
    assert (shared.gradients, shared.optimiser) == (alone.gradients // 4, alone.optimiser // 4)
    assert shared.activations == alone.activations
    deep = replace(SMALL, vocab_size=10)
    assert training_memory(deep, 8, TrainingSetting(shards=4)).weights == int(
        deep.num_parameters * 2 / 4 + deep.layer_parameters * 2
    )


def test_sharing_a_sequence_divides_its_tokens_and_keeps_whole_keys():
    shared = training_memory(SMALL, 3001, TrainingSetting(shards=4, sharing=4))
    part = training_memory(SMALL, 751, TrainingSetting(shards=4))
    whole_keys = 2 * 3001 * (16 + 16) * 2
    assert shared.activations == part.activations + whole_keys
    assert shared.loss == part.loss


def test_experts_widen_by_those_that_a_token_passes():
    routed = replace(SMALL, experts=Experts(count=5, active=2, size=20, shared=9))
    some = replace(SMALL, experts=Experts(count=5, active=2, size=20, shared=9, layers=3))
    plain = TrainingSetting(checkpointing=False)
    norms = 5 * 48 + 48 + 16 + 16 + 48
    assert training_memory(routed, 100, plain).activations == 7 * 100 * 2 * (norms + 4 * (2 * 20 + 9))
    # Where dense layers stand beside them the wider of the two counts.
    assert training_memory(some, 100, plain).activations == 7 * 100 * 2 * (norms + 4 * 112)


@pytest.mark.parametrize(
    ("length", "window", "chunk"), [(1, None, None), (50, None, None), (50, 7, None), (50, 50, None), (50, 90, None),
                                    (50, None, 7), (49, None, 7), (50, None, 60)]
)  # fmt: skip
def test_keys_that_a_token_meets(length, window, chunk):
    counted = by_hand.keys_met(length, window, chunk) / length
    assert mean_keys(length, window or chunk, chunked=chunk is not None) == pytest.approx(counted, rel=1e-12)


def test_a_window_slides_unless_it_is_a_chunk():
    assert mean_keys(50, 7) == mean_keys(50, 7, chunked=False) != mean_keys(50, 7, chunked=True)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("value_dim", [None, 5])
def test_flops_by_counting_pairs(chunked, value_dim):
    shape = replace(SMALL, window_layers=4, window=7, chunked=chunked, value_dim=value_dim)
    layers = [(3, None, None), (4, None, 7) if chunked else (4, 7, None)]
    attention = by_hand.attention_flops(50, layers, 48, 6 * (value_dim or 8))
    matrices = shape.num_parameters - 48_000
    assert training_flops(shape, 50, 50) == pytest.approx(6 * matrices * 50 + attention, rel=1e-12)
    assert training_flops(shape, 500, 50) == pytest.approx(10 * training_flops(shape, 50, 50), rel=1e-12)


def test_a_sliding_layer_costs_its_window_not_half_of_it():
    """Mistral 7B at 128k: 4096 keys a token in each layer, where a full layer would meet 65536 on average."""
    mistral = shape_of(read_facts(PUBLISHED["mistral-7b"][0]))
    attention = training_flops(mistral, 131072, 131072) - 6.0 * mistral.active_parameters * 131072
    assert attention / (131072 * 32 * 12 * 4096) == pytest.approx(4096, rel=0.02)


def test_cost_of_the_published_budget():
    published, small = fine_tune_cost(LLAMA_2_7B, 32768)
    assert (published.steps, published.tokens) == (400, 400 * 64 * 32768)
    assert (small.steps, small.tokens) == (400, 400 * (1 << 18))
    assert published.flops == training_flops(LLAMA_2_7B, published.tokens, 32768)
    assert fine_tune_cost(LLAMA_2_7B, 1 << 20)[1].tokens == 400 << 20
    assert published.to_json()["flops"] == published.flops


def test_set_ups_are_as_their_names_say():
    """(checkpointed, chunked loss, rank, where activations go), from the plainest to the leanest."""
    made = setups(SMALL, 64, dtype="bfloat16", devices=1)
    held = {
        name: (each.checkpointing, each.chunked_loss, each.lora_rank, each.offload)
        for name, each in ((name, setup.memory.setting) for name, setup in made.items())
    }
    assert held == {
        "full, plain": (False, False, 0, "none"),
        "full, checkpointed": (True, False, 0, "none"),
        "full, checkpointed, chunked loss": (True, True, 0, "none"),
        "full, chunked loss, offloaded": (True, True, 0, "cpu"),
        "LoRA 16, checkpointed, chunked loss": (True, True, 16, "none"),
        "LoRA 16, chunked loss, offloaded": (True, True, 16, "cpu"),
        "LoRA 16 on NF4, chunked loss": (True, True, 16, "none"),
        "LoRA 16 on NF4, chunked loss, offloaded": (True, True, 16, "cpu"),
    }
    packed = {name for name, setup in made.items() if setup.quantises}
    assert packed == {"LoRA 16 on NF4, chunked loss", "LoRA 16 on NF4, chunked loss, offloaded"}


def test_packed_weights_below_adapters_keep_their_bits_and_are_whole_on_every_device():
    """252,624 weights: 96,000 in the embeddings, the rest at 4.5 bits; adapters of rank 16 have 35,840."""
    packed = replace(SMALL, stored=Stored("bitsandbytes", 4.5, packed=True))
    made = setups(packed, 64, dtype="bfloat16", devices=2)
    assert list(made) == ["LoRA 16, checkpointed, chunked loss", "LoRA 16, chunked loss, offloaded"]
    lora = made["LoRA 16, checkpointed, chunked loss"]
    # The largest matrix is widened for its product: 48 by 112 in bfloat16.
    assert lora.memory.weights == int(156_624 * 4.5 / 8 + 96_000 * 2 + 35_840 * 4 + 48 * 112 * 2)
    assert (lora.memory.gradients, lora.memory.optimiser) == (35_840 * 4, 35_840 * 8)
    assert lora.recipe()["engine"] == {"name": "ddp"}
    assert lora.model() == {"dtype": "bfloat16"}
    _, chosen = choose_setup(packed, 64, dtype="bfloat16", devices=1, memory_bytes=None)
    assert chosen.name == "LoRA 16, checkpointed, chunked loss"


def test_weights_packed_on_loading_count_as_packed_ones():
    made = setups(SMALL, 64, dtype="bfloat16", devices=2)
    nf4, lora = made["LoRA 16 on NF4, chunked loss"], made["LoRA 16, checkpointed, chunked loss"]
    assert nf4.memory.weights == int(156_624 * 4.5 / 8 + 96_000 * 2 + 35_840 * 4 + 48 * 112 * 2)
    assert nf4.memory.activations == lora.memory.activations
    assert nf4.memory.to_json()["packed"] == "nf4"
    assert nf4.model() == {"dtype": "bfloat16", "quantise": "nf4"}
    assert (nf4.recipe()["engine"], lora.recipe()["engine"]) == ({"name": "ddp"}, {"name": "fsdp2"})
    # A device between the two is given packed weights, one that holds the others is not.
    alone = setups(SMALL, 64, dtype="bfloat16", devices=1)
    needed = {name: setup.memory.total for name, setup in alone.items()}
    between = needed["LoRA 16, chunked loss, offloaded"] - 1
    assert needed["LoRA 16 on NF4, chunked loss"] < between
    for memory, wanted in ((between, True), (between + 1, False)):
        assert (
            choose_setup(SMALL, 64, dtype="bfloat16", devices=1, memory_bytes=memory)[1].quantises is wanted
        )


def test_widened_weights_count_at_full_width_and_are_not_packed_again():
    wide = replace(SMALL, stored=Stored("fp8", 8.0))
    made = setups(wide, 64, dtype="bfloat16", devices=1)
    assert not [name for name in made if "NF4" in name]
    plain = setups(SMALL, 64, dtype="bfloat16", devices=1)
    assert {name: setup.memory for name, setup in made.items()} == {
        name: setup.memory for name, setup in plain.items() if "NF4" not in name
    }


def test_what_is_usual_where_nothing_is_said():
    """bfloat16 with a float32 master copy, checkpoints, 1,024 tokens' logits at a time, one device."""
    usual = TrainingSetting()
    assert (usual.dtype, usual.master, usual.checkpointing, usual.offload) == (
        "bfloat16",
        "float32",
        True,
        "none",
    )
    assert (usual.chunked_loss, usual.loss_chunk) == (True, 1024)
    assert (usual.lora_rank, usual.shards, usual.sharing) == (0, 1, 1)
    assert training_memory(SMALL, 3000).loss == 1024 * 1000 * (2 + 4 + 4) + 3000 * 48 * 2
    memory = inference_memory(SMALL, 10_000)
    assert (memory.batch, memory.chunk) == (1, 2048)
    assert memory.kv_cache == {"bfloat16": 7 * 10_000 * 64, "int8": 7 * 10_000 * 32, "int4": 7 * 10_000 * 18}
    assert memory.kv_cache_expanded == 7 * 10_000 * 64


def test_the_cache_is_counted_in_the_type_that_the_model_is_held_in():
    """float32 takes twice what bfloat16 takes of everything but the logits, which are float32 in any case."""
    wide, half = (inference_memory(SMALL, 3000, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert wide.total() - wide.logits_last == 2 * (half.total() - half.logits_last)
    assert wide.kv_kinds["full"] == 2 * half.kv_kinds["full"] == wide.kv_cache["float32"]
    assert wide.kv_cache_expanded == 2 * half.kv_cache_expanded
    assert wide.total("bfloat16") == wide.total() - wide.kv_cache["bfloat16"]
