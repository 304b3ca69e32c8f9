"""Converting by family: every row of the table against a plain reference, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf_checkpoints import (
    CHECKPOINTS,
    EXPERTS,
    HIDDEN,
    KEYS,
    PLAIN,
    SLIDING,
    VOCABULARY,
    checkpoint,
    config_of,
    converted,
)
from gguf_expected import expected
from safetensors.numpy import load_file, save_file

from ropewalk.errors import RopewalkError
from ropewalk.models.facts import read_facts
from ropewalk.models.gguf.config import ARCHITECTURES
from ropewalk.runtimes.gguf import tensors
from ropewalk.runtimes.gguf.families import COMPUTED, OUTPUTS, check_needs, families, model_keys, table

gguf = pytest.importorskip("gguf")


def test_every_family_has_a_row_here_and_the_table_is_sound():
    assert set(CHECKPOINTS) == set(KEYS) == set(families())
    assert len(families()) >= 30
    document = table()
    assert not set(document["refused"]) & set(document["families"])
    for name, row in document["families"].items():
        assert set(row) <= set(document["traits"]), name
        family = families()[name]
        assert ARCHITECTURES[name] in gguf.MODEL_ARCH_NAMES.values()
        assert family.output in OUTPUTS
        known = {gguf.TENSOR_NAMES[each].removeprefix("blk.{bid}.") for each in gguf.MODEL_TENSOR}
        for tensor in (*family.layer, *family.dense, *family.other, *family.may, *family.whole):
            assert tensor.removesuffix(".bias").removesuffix(".") in known, (name, tensor)
        for rule in family.rules:
            assert rule.operation.split()[0] in tensors.OPERATIONS, (name, rule)
        computed = [key for key in family.needs if key.startswith("=")]
        computed += [
            value for value in family.keys.values() if isinstance(value, str) and value.startswith("=")
        ]
        assert all(value[1:] in COMPUTED for value in computed), (name, computed)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_a_family_is_written_as_llama_cpp_reads_it(tmp_path, name):
    folder = checkpoint(tmp_path / name, name)
    keys, written = converted(folder)
    before = load_file(folder / "model.safetensors")
    for tensor, wanted in expected(name, before).items():
        np.testing.assert_array_equal(
            written[f"blk.2.{tensor}"].reshape(wanted.shape), wanted, err_msg=tensor
        )
    embedding = next(
        before[key] for key in before if "embed" in key and "out" not in key and "vision" not in key
    )
    np.testing.assert_array_equal(written["token_embd.weight"], embedding)
    shown = {
        key: value
        for key, value in keys.items()
        if not key.startswith(("general.", "tokenizer.", "GGUF.", "xielu."))
    }
    assert shown == {key: pytest.approx(value, rel=1e-6) for key, value in (PLAIN | KEYS[name]).items()}
    assert keys["general.architecture"] == ARCHITECTURES[name]
    for key, value in (PLAIN | KEYS[name]).items():
        # llama.cpp refuses a whole number where it reads a float, and the other way round.
        assert isinstance(shown[key], float) == isinstance(value, float), key
    # Nothing is lost on the way: as many numbers as the checkpoint holds.
    count = sum(
        value.size
        for key, value in before.items()
        if not key.startswith(("vision", "multi", "mtp", "model.visual")) and "act_fn" not in key
    )
    assert sum(value.size for value in written.values()) == count


def test_numbers_of_an_activation_become_lists_a_layer(tmp_path):
    folder = checkpoint(tmp_path / "m", "apertus")
    keys, written = converted(folder)
    before = load_file(folder / "model.safetensors")
    for name in ("alpha_p", "alpha_n", "beta", "eps"):
        wanted = [float(before[f"model.layers.{at}.mlp.act_fn.{name}"].reshape(-1)[0]) for at in range(4)]
        assert keys[f"xielu.{name}"] == pytest.approx(wanted, rel=1e-6)
    assert not [name for name in written if "act" in name]
    for name, value in (("beta", None), ("alpha_n", np.zeros(2, dtype=np.float32))):
        key = f"model.layers.2.mlp.act_fn.{name}"
        held = {each: array for each, array in before.items() if each != key}
        save_file(held if value is None else held | {key: value}, folder / "model.safetensors")
        with pytest.raises(
            RopewalkError, match=rf"has no model\.layers\.2\.mlp\.act_fn\.{name} of one number"
        ):
            converted(folder)


def test_the_last_norm_of_gemma_gets_its_one_too(tmp_path):
    folder = checkpoint(tmp_path / "g", "gemma")
    _, written = converted(folder)
    before = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(written["output_norm.weight"], before["model.norm.weight"] + np.float32(1))


def test_tied_embeddings_are_written_once_or_again_where_the_program_asks_for_them(tmp_path):
    for name, again in (("llama", False), ("olmo2", True), ("qwen2_moe", True)):
        folder = checkpoint(tmp_path / name, name, tie_word_embeddings=True, without=("lm_head.weight",))
        _, written = converted(folder)
        assert ("output.weight" in written) == again, name
        if again:
            np.testing.assert_array_equal(written["output.weight"], written["token_embd.weight"])
    # A checkpoint that holds the tied matrix all the same: the class reads the embedding.
    folder = checkpoint(tmp_path / "both", "olmo2", tie_word_embeddings=True)
    _, written = converted(folder)
    np.testing.assert_array_equal(written["output.weight"], written["token_embd.weight"])


def test_a_text_model_inside_another_is_read_under_both_of_its_names(tmp_path):
    folder = checkpoint(tmp_path / "old", "gemma3")
    _, old = converted(folder)
    held = load_file(folder / "model.safetensors")
    renamed = {}
    for name, value in held.items():
        new = f"model.{name}" if name.startswith(("vision", "multi")) else name
        renamed[new.replace("language_model.model.", "model.language_model.")] = value
    again = checkpoint(tmp_path / "new", "gemma3")
    save_file(renamed, again / "model.safetensors")
    _, new = converted(again)
    assert set(old) == set(new)
    np.testing.assert_array_equal(old["blk.1.ffn_up.weight"], new["blk.1.ffn_up.weight"])
    both = held | {"model.language_model.norm.weight": np.zeros(HIDDEN, dtype=np.float32)}
    save_file(both, again / "model.safetensors")
    with pytest.raises(RopewalkError, match=r"has twice the tensor model\.norm\.weight"):
        converted(again)
    save_file(held | {"audio_tower.weight": np.zeros(4, dtype=np.float32)}, again / "model.safetensors")
    with pytest.raises(RopewalkError, match=r"audio_tower\.weight has no name in GGUF"):
        converted(again)


def test_low_rank_queries_are_those_of_the_class_unless_the_file_says_none():
    config = config_of("deepseek_v2") | {"num_hidden_layers": 26}
    given = model_keys(families()["deepseek_v2"], read_facts(config | {"q_lora_rank": 5}))
    assert given["attention.q_lora_rank"] == 5
    none = read_facts(config | {"q_lora_rank": None})
    assert "attention.q_lora_rank" not in model_keys(families()["deepseek_v2"], none)
    check_needs(families()["deepseek_v2"], none, 64)
    silent = {name: value for name, value in config.items() if name != "q_lora_rank"}
    assert model_keys(families()["deepseek_v2"], read_facts(silent))["attention.q_lora_rank"] == 1536
    with pytest.raises(RopewalkError, match=r"lite is .q_lora_rank given"):
        check_needs(families()["deepseek_v2"], read_facts(config | {"q_lora_rank": 5}), 64)


@pytest.mark.parametrize(
    ("name", "lost", "said"),
    [
        ("llama", "model.layers.3.mlp.up_proj.weight", "misses the tensor blk.3.ffn_up.weight"),
        ("llama", "model.norm.weight", "misses the tensor output_norm.weight"),
        ("llama", "lm_head.weight", "misses the tensor output.weight"),
        ("qwen3", "model.layers.0.self_attn.k_norm.weight", "misses the tensor blk.0.attn_k_norm.weight"),
        ("qwen2_moe", "model.layers.1.mlp.experts.1.up_proj.weight", "is made of 3 experts, and number 1 is"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w2.weight", "number 2 is missing"),
        ("deepseek_v3", "model.layers.2.mlp.gate.e_score_correction_bias", "misses the tensor blk.2.exp_probs_b.bias"),
        ("gpt_neox", "gpt_neox.final_layer_norm.bias", "misses the tensor output_norm.bias"),
    ],
)  # fmt: skip
def test_a_lost_tensor_is_named_and_nothing_is_written(tmp_path, name, lost, said):
    folder = checkpoint(tmp_path / "m", name, without=(lost,))
    with pytest.raises(RopewalkError, match=said):
        converted(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("name", "extra", "said"),
    [
        ("llama", {"model.layers.0.self_attn.gate.weight": (4, 4)}, "self_attn.gate.weight has no name in GGUF"),
        ("llama", {"model.vision_tower.weight": (4, 4)}, "model.vision_tower.weight has no name"),
        ("qwen3", {"model.layers.1.self_attn.q_proj.bias": (4,)}, "has the tensor blk.1.attn_q.bias, which"),
        ("llama", {"model.layers.9.mlp.up_proj.weight": (4, 4)}, "layers.9.mlp.up_proj.weight has no name"),
        ("mixtral", {"model.layers.1.block_sparse_moe.experts.3.w1.weight": (24, HIDDEN)}, "number 3 is missing or"),
        ("deepseek_v2", {"model.layers.0.mlp.gate.weight": (EXPERTS, HIDDEN)}, "has the tensor blk.0.ffn_gate_inp"),
        ("gemma", {"lm_head.bias": (VOCABULARY,)}, "lm_head.bias has no name in GGUF"),
        ("phi3", {"lm_head.bias": (VOCABULARY,)}, "has the tensor output.bias, which llama.cpp's phi3 does not read"),
        ("llama", {"transformer.wte.weight": (VOCABULARY, HIDDEN)}, "has twice the tensor token_embd.weight"),
    ],
)  # fmt: skip
def test_a_strange_tensor_is_refused_by_name_and_never_dropped(tmp_path, name, extra, said):
    folder = checkpoint(tmp_path / "m", name, extra=extra)
    with pytest.raises(RopewalkError, match=said):
        converted(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_buffers_that_old_checkpoints_hold_are_left_out_whatever_their_type(tmp_path):
    folder = checkpoint(tmp_path / "m", "gpt_neox")
    held = load_file(folder / "model.safetensors")
    held["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 4, 4), dtype=bool)
    held["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = np.ones(1, dtype=np.float32)
    save_file(held, folder / "model.safetensors")
    _, written = converted(folder)
    assert not [name for name in written if name.endswith(("attention.bias", "inv_freq"))]


def test_several_shards_and_bfloat16_give_the_same_file(tmp_path):
    _, whole = converted(checkpoint(tmp_path / "one", "qwen3_moe"))
    _, sharded = converted(checkpoint(tmp_path / "three", "qwen3_moe", shards=3))
    assert set(whole) == set(sharded)
    for name, value in whole.items():
        np.testing.assert_array_equal(sharded[name], value, err_msg=name)
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = checkpoint(tmp_path / "half", "gpt_oss")
    halved = {name: value.bfloat16() for name, value in load_torch(folder / "model.safetensors").items()}
    save_torch(halved, folder / "model.safetensors")
    keys, written = converted(folder)
    assert keys["general.file_type"] == 32
    rows = halved["model.layers.2.mlp.experts.gate_up_proj"][1, :, 1::2].T.contiguous()
    stored = torch.from_numpy(written["blk.2.ffn_up_exps.weight"].view(np.int16)[1]).view(torch.bfloat16)
    assert torch.equal(stored, rows)
    # Vectors, biases and the router stay float32: llama.cpp adds and compares with them directly.
    for name in ("blk.2.attn_sinks", "blk.2.ffn_up_exps.bias", "blk.2.ffn_gate_inp", "output_norm"):
        assert written[name if name.endswith("bias") else f"{name}.weight"].dtype == np.float32, name
    router = halved["model.layers.2.mlp.router.weight"].float().numpy()
    np.testing.assert_array_equal(written["blk.2.ffn_gate_inp.weight"], router)


def test_bfloat16_norms_get_their_one_in_float32(tmp_path):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = checkpoint(tmp_path / "half", "gemma")
    halved = {name: value.bfloat16() for name, value in load_torch(folder / "model.safetensors").items()}
    save_torch(halved, folder / "model.safetensors")
    _, written = converted(folder)
    wanted = halved["model.layers.1.input_layernorm.weight"].float() + 1
    assert torch.equal(torch.from_numpy(written["blk.1.attn_norm.weight"].copy()), wanted)


def test_a_matrix_that_does_not_fit_the_heads_is_named(tmp_path):
    folder = checkpoint(tmp_path / "m", "llama", num_attention_heads=6, hidden_size=48)
    with pytest.raises(RopewalkError, match=r"q_proj.weight is \[32, 32\], which does not go with"):
        converted(folder)
    folder = checkpoint(tmp_path / "e", "mixtral")
    held = load_file(folder / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    save_file(held | {name: held[name][:-1].copy()}, folder / "model.safetensors")
    with pytest.raises(RopewalkError, match=r"experts\.1\.w1\.weight has not the shape and type of"):
        converted(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "m"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, 'hidden_act is "gelu", and llama.cpp computes llama with "silu" alone'),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is false"),
        ("qwen3_moe", {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
        ("qwen2_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers is \[1\]"),
        ("gemma2", {"query_pre_attn_scalar": 24}, "query scale is 24"),
        ("gemma", {"tie_word_embeddings": False}, "the output matrix is not the embedding"),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "no regular pattern"),
        ("mistral", {"sliding_window": 32}, "sliding layers see 32 of 64 tokens"),
        ("phi3", {"sliding_window": 63}, "sliding layers see 63 of 64"),
        ("falcon", {"alibi": True}, "alibi=true"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm is true"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}, "rotates but each 4th is false"),
        ("cohere", {"head_dim": 16}, "4 heads of 16 are not hidden_size=32"),
        ("deepseek_v2", {"q_lora_rank": None}, "lite is .q_lora_rank none"),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, "topk_method is"),
        ("minicpm3", {"scale_emb": 6}, "scale_emb is 6"),
        ("exaone4", SLIDING, "sliding layers is 3"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path, name, changes, said):
    folder = checkpoint(tmp_path / "m", name, **changes)
    with pytest.raises(RopewalkError, match=said):
        converted(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_window_that_cuts_nothing_is_no_hindrance(tmp_path):
    folder = checkpoint(tmp_path / "m", "mistral", sliding_window=64)
    assert "attention.sliding_window" not in converted(folder)[0]
    with pytest.raises(RopewalkError, match="64 of 65"):
        converted(folder, 65)


@pytest.mark.parametrize("name", ["phimoe", "qwen3_next", "gemma4_text", "bloomz"])
def test_families_that_are_not_converted_say_why_and_the_way_out(tmp_path, name):
    folder = checkpoint(tmp_path / "m", "llama", model_type="llama")
    facts = read_facts(json.loads((folder / "config.json").read_text()))
    object.__setattr__(facts, "model_type", name)
    from ropewalk.runtimes.gguf.families import family_of

    with pytest.raises(RopewalkError, match="is not converted here") as caught:
        family_of(facts)
    assert table()["refused"].get(name, "qwen3_moe") in caught.value.message
    assert "convert_hf_to_gguf.py" in caught.value.hint
    assert "--gguf" in caught.value.hint


def test_defaults_are_those_of_the_classes():
    from transformers import CONFIG_MAPPING

    for name, family in families().items():
        config = CONFIG_MAPPING[name]().get_text_config()
        for key, source in family.keys.items():
            if isinstance(source, list):
                assert getattr(config, source[0]) == pytest.approx(source[1]), (name, key, source)
        for key, allowed in family.needs.items():
            # Silence is taken for the class's default: then that must be among what is allowed.
            if not key.startswith("=") and None in allowed and hasattr(config, key):
                assert getattr(config, key) in allowed, (name, key, getattr(config, key))
