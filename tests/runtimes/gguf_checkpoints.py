"""A small checkpoint of every family that is converted to GGUF, and what must come of it, written out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ropewalk.hemp import folder as hemp_folder
from ropewalk.models.facts import read_facts
from ropewalk.runtimes.gguf.convert import convert

HEADS, KV, HEAD, HIDDEN, INNER, LAYERS, EXPERTS, VOCABULARY = 4, 2, 8, 32, 24, 4, 3, 264
LOW, NOPE, ROPE, VALUE = 6, 4, 8, 5
BASE = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": HEAD,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
Q, K, V, OUT = ((HEADS * HEAD, HIDDEN), (KV * HEAD, HIDDEN), (KV * HEAD, HIDDEN), (HIDDEN, HEADS * HEAD))
UP, DOWN, NORM = (INNER, HIDDEN), (HIDDEN, INNER), (HIDDEN,)
ATTENTION = {"self_attn.q_proj.weight": Q, "self_attn.k_proj.weight": K, "self_attn.v_proj.weight": V,
             "self_attn.o_proj.weight": OUT}  # fmt: skip
GATED = {"mlp.gate_proj.weight": UP, "mlp.up_proj.weight": UP, "mlp.down_proj.weight": DOWN}
TWO = {"input_layernorm.weight": NORM, "post_attention_layernorm.weight": NORM}
AFTER = {"post_attention_layernorm.weight": NORM, "post_feedforward_layernorm.weight": NORM}
EACH = {"self_attn.q_norm.weight": (HEAD,), "self_attn.k_norm.weight": (HEAD,)}
WIDE = {"self_attn.q_norm.weight": (HEADS * HEAD,), "self_attn.k_norm.weight": (KV * HEAD,)}
BIASES = {"self_attn.q_proj.bias": Q[:1], "self_attn.k_proj.bias": K[:1], "self_attn.v_proj.bias": V[:1]}
WHOLE = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": NORM}
HEADED = WHOLE | {"lm_head.weight": (VOCABULARY, HIDDEN)}


def experts(where, up, down, names=("gate_proj", "up_proj", "down_proj")):
    """Separate matrices of every expert."""
    found = {}
    for number in range(EXPERTS):
        for name, shape in zip(names, (up, up, down), strict=True):
            found[f"{where}.{number}.{name}.weight"] = shape
    return found


SMALL_UP, SMALL_DOWN = (7, HIDDEN), (HIDDEN, 7)
MOE = {"mlp.gate.weight": (EXPERTS, HIDDEN)} | experts("mlp.experts", SMALL_UP, SMALL_DOWN)
SHARED = {"mlp.shared_expert.gate_proj.weight": (9, HIDDEN), "mlp.shared_expert.up_proj.weight": (9, HIDDEN),
          "mlp.shared_expert.down_proj.weight": (HIDDEN, 9), "mlp.shared_expert_gate.weight": (1, HIDDEN)}  # fmt: skip
LATENT = {
    "self_attn.q_a_proj.weight": (LOW, HIDDEN), "self_attn.q_a_layernorm.weight": (LOW,),
    "self_attn.q_b_proj.weight": (HEADS * (NOPE + ROPE), LOW),
    "self_attn.kv_a_proj_with_mqa.weight": (LOW + ROPE, HIDDEN), "self_attn.kv_a_layernorm.weight": (LOW,),
    "self_attn.kv_b_proj.weight": (HEADS * (NOPE + VALUE), LOW), "self_attn.o_proj.weight": (HIDDEN, HEADS * VALUE),
}  # fmt: skip
LATENT_CONFIG = {"kv_lora_rank": LOW, "q_lora_rank": LOW, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE,
                 "v_head_dim": VALUE, "num_key_value_heads": HEADS}  # fmt: skip
DEEP_MOE = MOE | {f"mlp.shared_experts.{name}.weight": shape for name, shape in
                  (("gate_proj", SMALL_UP), ("up_proj", SMALL_UP), ("down_proj", SMALL_DOWN))}  # fmt: skip
DEEP = LATENT_CONFIG | {"n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_shared_experts": 1,
                        "moe_intermediate_size": 7, "first_k_dense_replace": 1}  # fmt: skip
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention",
                                                 "full_attention"]}  # fmt: skip
EVERY_OTHER = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
TIED = {"tie_word_embeddings": True}
GEMMA = TIED | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": HEAD}
GEMMA2 = {**TWO, "pre_feedforward_layernorm.weight": NORM, "post_feedforward_layernorm.weight": NORM}
FIRST = {"input_layernorm.weight": NORM}
FIRST_BIAS = FIRST | {"input_layernorm.bias": NORM}
BOTH_BIAS = TWO | {"input_layernorm.bias": NORM, "post_attention_layernorm.bias": NORM}
FINAL_BIAS = {"model.norm.bias": NORM}


def layered(layer, prefix="model.layers"):
    """The tensors of every layer."""
    return {f"{prefix}.{at}.{name}": shape for at in range(LAYERS) for name, shape in layer.items()}


def deep(layer, dense):
    """The first layer dense, the others of experts."""
    return {f"model.layers.{at}.{name}": shape for at in range(LAYERS)
            for name, shape in (dense if at == 0 else layer).items()}  # fmt: skip


LINEAR = {"layer_types": ["linear_attention"] * 3 + ["full_attention"], "linear_conv_kernel_dim": 4,
          "linear_key_head_dim": 3, "linear_value_head_dim": 3, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
          "partial_rotary_factor": 0.25}  # fmt: skip


MANY = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 7,
        "shared_expert_intermediate_size": 9}  # fmt: skip
FUSED = {"mlp.gate.weight": (EXPERTS, HIDDEN), "mlp.experts.gate_up_proj": (EXPERTS, 14, HIDDEN),
         "mlp.experts.down_proj": (EXPERTS, HIDDEN, 7)}  # fmt: skip


def qwen35(forward=GATED):
    """Three layers of linear attention and a full one whose queries bring their gate."""
    wide = 2 * 2 * 3 + 6 * 3
    linear = {"linear_attn.A_log": (6,), "linear_attn.conv1d.weight": (wide, 1, 4), "linear_attn.dt_bias": (6,),
              "linear_attn.in_proj_a.weight": (6, HIDDEN), "linear_attn.in_proj_b.weight": (6, HIDDEN),
              "linear_attn.in_proj_qkv.weight": (wide, HIDDEN), "linear_attn.in_proj_z.weight": (18, HIDDEN),
              "linear_attn.norm.weight": (3,), "linear_attn.out_proj.weight": (HIDDEN, 18)}  # fmt: skip
    full = ATTENTION | EACH | {"self_attn.q_proj.weight": (2 * HEADS * HEAD, HIDDEN)}
    return {f"model.layers.{at}.{name}": shape for at in range(LAYERS)
            for name, shape in (forward | TWO | (full if at == 3 else linear)).items()}  # fmt: skip


# By model type: changes to the configuration, and the tensors with their shapes as transformers saves them.
CHECKPOINTS = {
    "llama": ({}, HEADED | layered(ATTENTION | GATED | TWO)),
    "mistral": ({"sliding_window": None}, HEADED | layered(ATTENTION | GATED | TWO)),
    "granite": ({"attention_multiplier": 0.25, "embedding_multiplier": 12, "residual_multiplier": 0.2,
                 "logits_scaling": 8}, HEADED | layered(ATTENTION | GATED | TWO)),
    "granitemoe": ({"num_local_experts": EXPERTS, "num_experts_per_tok": 2}, HEADED | layered(
        ATTENTION | TWO | {"block_sparse_moe.router.layer.weight": (EXPERTS, HIDDEN),
                           "block_sparse_moe.input_linear.weight": (EXPERTS, 2 * INNER, HIDDEN),
                           "block_sparse_moe.output_linear.weight": (EXPERTS, HIDDEN, INNER)})),
    "mixtral": ({"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "sliding_window": None}, HEADED | layered(
        ATTENTION | TWO | {"block_sparse_moe.gate.weight": (EXPERTS, HIDDEN)}
        | experts("block_sparse_moe.experts", UP, DOWN, ("w1", "w3", "w2")))),
    "arcee": ({}, HEADED | layered(ATTENTION | TWO | {"mlp.up_proj.weight": UP, "mlp.down_proj.weight": DOWN})),
    "smollm3": (TIED, WHOLE | layered(ATTENTION | GATED | TWO)),
    "olmo": ({"clip_qkv": 8}, {name: shape for name, shape in HEADED.items() if "norm" not in name}
             | layered(ATTENTION | GATED)),
    "qwen2": ({}, HEADED | layered(ATTENTION | GATED | TWO | BIASES)),
    "qwen3": ({}, HEADED | layered(ATTENTION | GATED | TWO | EACH)),
    "hunyuan_v1_dense": ({}, HEADED | layered(
        ATTENTION | GATED | TWO | {f"self_attn.{name}_layernorm.weight": (HEAD,) for name in ("query", "key")})),
    "qwen2_moe": ({"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 7,
                   "shared_expert_intermediate_size": 9}, HEADED | layered(ATTENTION | TWO | BIASES | MOE | SHARED)),
    "qwen3_moe": ({"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 7,
                   "norm_topk_prob": True}, HEADED | layered(ATTENTION | TWO | EACH | MOE)),
    "olmoe": ({"num_experts": EXPERTS, "num_experts_per_tok": 2, "intermediate_size": 7},
              HEADED | layered(ATTENTION | TWO | WIDE | MOE)),
    "gemma": (GEMMA, WHOLE | layered(ATTENTION | GATED | TWO)),
    "gemma2": (GEMMA | EVERY_OTHER | {"attn_logit_softcapping": 50, "final_logit_softcapping": 30.0},
               WHOLE | layered(ATTENTION | GATED | GEMMA2)),
    "gemma3_text": (GEMMA | SLIDING | {"rope_local_base_freq": 777.0},
                    WHOLE | layered(ATTENTION | GATED | GEMMA2 | EACH)),
    # As published: the text model inside a composite, and a tower beside it that is no part of the file.
    "gemma3": (GEMMA | SLIDING | {"rope_local_base_freq": 777.0}, {
        "vision_tower.vision_model.embeddings.weight": (4, 4), "multi_modal_projector.mm_norm.weight": (4,)}
        | {f"language_model.{name}": shape
           for name, shape in (WHOLE | layered(ATTENTION | GATED | GEMMA2 | EACH)).items()}),
    "phi": ({"num_key_value_heads": HEADS, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"},
            {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN),
             "lm_head.bias": (VOCABULARY,), "model.final_layernorm.weight": NORM, "model.final_layernorm.bias": NORM}
            | layered(FIRST_BIAS | {f"self_attn.{name}.{kind}": Q if kind == "weight" else Q[:1]
                                    for name in ("q_proj", "k_proj", "v_proj", "dense") for kind in ("weight", "bias")}
                      | {"mlp.fc1.weight": UP, "mlp.fc1.bias": UP[:1], "mlp.fc2.weight": DOWN, "mlp.fc2.bias": NORM})),
    "phi3": ({"original_max_position_embeddings": 64}, HEADED | layered(
        TWO | {"self_attn.qkv_proj.weight": ((HEADS + 2 * KV) * HEAD, HIDDEN), "self_attn.o_proj.weight": OUT,
               "mlp.gate_up_proj.weight": (2 * INNER, HIDDEN), "mlp.down_proj.weight": DOWN})),
    "olmo2": ({}, HEADED | layered(ATTENTION | GATED | AFTER | WIDE)),
    "olmo3": (SLIDING, HEADED | layered(ATTENTION | GATED | AFTER | WIDE)),
    "exaone4": ({"sliding_window": None, "layer_types": ["full_attention"] * LAYERS},
                HEADED | layered(ATTENTION | GATED | AFTER | EACH)),
    "seed_oss": ({}, HEADED | layered(ATTENTION | GATED | TWO | BIASES)),
    "cohere": (TIED | {"logit_scale": 0.25}, WHOLE | layered(ATTENTION | GATED | FIRST)),
    "cohere2": (TIED | SLIDING, WHOLE | layered(ATTENTION | GATED | FIRST)),
    "starcoder2": (TIED | {"sliding_window": None}, WHOLE | FINAL_BIAS | layered(
        ATTENTION | BIASES | BOTH_BIAS | {"self_attn.o_proj.bias": NORM, "mlp.c_fc.weight": UP, "mlp.c_fc.bias": UP[:1],
                                          "mlp.c_proj.weight": DOWN, "mlp.c_proj.bias": NORM})),
    "nemotron": ({"partial_rotary_factor": 0.5}, HEADED | FINAL_BIAS | layered(
        ATTENTION | BOTH_BIAS | {"mlp.up_proj.weight": UP, "mlp.down_proj.weight": DOWN})),
    "stablelm": ({"partial_rotary_factor": 0.25}, HEADED | FINAL_BIAS | layered(ATTENTION | GATED | BOTH_BIAS)),
    "gpt_neox": ({"num_key_value_heads": HEADS, "rotary_pct": 0.25}, {
        "gpt_neox.embed_in.weight": (VOCABULARY, HIDDEN), "embed_out.weight": (VOCABULARY, HIDDEN),
        "gpt_neox.final_layer_norm.weight": NORM, "gpt_neox.final_layer_norm.bias": NORM} | layered(
        BOTH_BIAS | {"attention.query_key_value.weight": (3 * HIDDEN, HIDDEN),
                     "attention.query_key_value.bias": (3 * HIDDEN,), "attention.dense.weight": OUT,
                     "attention.dense.bias": NORM, "mlp.dense_h_to_4h.weight": UP, "mlp.dense_h_to_4h.bias": UP[:1],
                     "mlp.dense_4h_to_h.weight": DOWN, "mlp.dense_4h_to_h.bias": NORM},
        "gpt_neox.layers")),
    "falcon": (TIED | {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": KV,
                       "ffn_hidden_size": INNER}, {
        "transformer.word_embeddings.weight": (VOCABULARY, HIDDEN), "transformer.ln_f.weight": NORM,
        "transformer.ln_f.bias": NORM} | layered(
        {"ln_attn.weight": NORM, "ln_attn.bias": NORM, "ln_mlp.weight": NORM, "ln_mlp.bias": NORM,
         "self_attention.query_key_value.weight": ((HEADS + 2 * KV) * HEAD, HIDDEN), "self_attention.dense.weight": OUT,
         "mlp.dense_h_to_4h.weight": UP, "mlp.dense_4h_to_h.weight": DOWN}, "transformer.h")),
    "glm4": ({"partial_rotary_factor": 0.5}, HEADED | layered(
        ATTENTION | BIASES | TWO | {"post_self_attn_layernorm.weight": NORM, "post_mlp_layernorm.weight": NORM,
                                    "mlp.gate_up_proj.weight": (2 * INNER, HIDDEN), "mlp.down_proj.weight": DOWN})),
    "ernie4_5": (TIED, WHOLE | layered(ATTENTION | GATED | TWO)),
    "apertus": ({}, HEADED | layered(
        ATTENTION | EACH | {"attention_layernorm.weight": NORM, "feedforward_layernorm.weight": NORM,
                            "mlp.up_proj.weight": UP, "mlp.down_proj.weight": DOWN, "mlp.act_fn.alpha_p": (1,),
                            "mlp.act_fn.alpha_n": (1,), "mlp.act_fn.beta": (), "mlp.act_fn.eps": ()})),
    "qwen3_5_text": (LINEAR, HEADED | {"mtp.norm.weight": NORM} | qwen35()),
    "qwen3_5": (LINEAR, {name.replace("model.", "model.language_model."): shape
                         for name, shape in (HEADED | qwen35()).items()} | {"model.visual.merger.weight": (4, 4)}),
    "qwen3_5_moe_text": (LINEAR | MANY, HEADED | qwen35(MOE | SHARED)),
    "qwen3_5_moe": (LINEAR | MANY, {name.replace("model.", "model.language_model."): shape
                                    for name, shape in (HEADED | qwen35(FUSED | SHARED)).items()}),
    "minicpm3": (LATENT_CONFIG, HEADED | layered(LATENT | GATED | TWO)),
    "gpt_oss": (EVERY_OTHER | {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}, HEADED | layered(
        ATTENTION | BIASES | TWO | {"self_attn.o_proj.bias": NORM, "self_attn.sinks": (HEADS,),
                                    "mlp.router.weight": (EXPERTS, HIDDEN), "mlp.router.bias": (EXPERTS,),
                                    "mlp.experts.gate_up_proj": (EXPERTS, HIDDEN, 2 * INNER),
                                    "mlp.experts.gate_up_proj_bias": (EXPERTS, 2 * INNER),
                                    "mlp.experts.down_proj": (EXPERTS, INNER, HIDDEN),
                                    "mlp.experts.down_proj_bias": (EXPERTS, HIDDEN)})),
    "deepseek_v2": (DEEP, HEADED | deep(LATENT | TWO | DEEP_MOE, LATENT | TWO | GATED)),
    "deepseek_v3": (DEEP, HEADED | deep(
        LATENT | TWO | DEEP_MOE | {"mlp.gate.e_score_correction_bias": (EXPERTS,)}, LATENT | TWO | GATED)),
}  # fmt: skip


def config_of(name: str) -> dict:
    config = BASE | {"model_type": name} | CHECKPOINTS[name][0]
    if name == "falcon":
        del config["intermediate_size"], config["num_key_value_heads"]
    if name in ("gemma3", "qwen3_5", "qwen3_5_moe"):
        tied = TIED if name == "gemma3" else {"tie_word_embeddings": False}
        return {"model_type": name, "text_config": config | {"model_type": f"{name}_text"}} | tied
    return config


def checkpoint(where: Path, name: str, *, without=(), extra=None, shards=1, **changes) -> Path:
    """A checkpoint of that family in float32, its numbers all different."""
    where.mkdir()
    rng = np.random.default_rng(0)
    weights = {
        key: rng.standard_normal(shape).astype(np.float32) for key, shape in CHECKPOINTS[name][1].items()
    }
    weights |= {key: rng.standard_normal(shape).astype(np.float32) for key, shape in (extra or {}).items()}
    names = [key for key in weights if key not in without]
    if shards == 1:
        save_file({key: weights[key] for key in names}, where / "model.safetensors")
    else:
        files = [f"model-{at + 1:05d}-of-{shards:05d}.safetensors" for at in range(shards)]
        for at, file in enumerate(files):
            save_file({key: weights[key] for key in names[at::shards]}, where / file)
        mapped = {key: files[at % shards] for at, key in enumerate(names)}
        (where / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": mapped})
        )
    (where / "config.json").write_text(json.dumps(config_of(name) | changes))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hemp_folder() / file, where / file)
    return where


def converted(folder: Path, length: int = 64, **options) -> tuple[dict, dict[str, np.ndarray]]:
    """Metadata without the architecture's name, and tensors, as the `gguf` package reads them."""
    import gguf

    target = folder.parent / f"{folder.name}.gguf"
    convert(folder, target, read_facts(folder), {"context_length": length}, {}, **options)
    reader = gguf.GGUFReader(target)
    name = reader.fields["general.architecture"].contents()
    keys = {key.removeprefix(f"{name}."): field.contents() for key, field in reader.fields.items()}
    return keys, {str(tensor.name): np.array(tensor.data) for tensor in reader.tensors}


PLAIN = {
    "block_count": LAYERS, "embedding_length": HIDDEN, "attention.head_count": HEADS, "attention.head_count_kv": KV,
    "attention.key_length": HEAD, "attention.value_length": HEAD, "feed_forward_length": INNER,
    "rope.dimension_count": HEAD, "rope.freq_base": 10000.0, "vocab_size": VOCABULARY, "context_length": 64,
}  # fmt: skip
RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
MOE_KEYS = {"expert_count": EXPERTS, "expert_used_count": 2}
SEVEN = MOE_KEYS | {"expert_feed_forward_length": 7}
THREE_OF_FOUR = {"attention.sliding_window": 16, "attention.sliding_window_pattern": 4}
ONE_OF_TWO = {"attention.sliding_window": 16, "attention.sliding_window_pattern": 2}
ALL_HEADS = {"attention.head_count_kv": HEADS}
LATENT_KEYS = {
    "attention.head_count_kv": 1, "attention.q_lora_rank": LOW, "attention.kv_lora_rank": LOW,
    "attention.key_length": LOW + ROPE, "attention.value_length": LOW, "attention.key_length_mla": NOPE + ROPE,
    "attention.value_length_mla": VALUE, "leading_dense_block_count": 1, "expert_shared_count": 1, **SEVEN,
}  # fmt: skip
LINEAR_KEYS = {
    RMS: 1e-6, "rope.dimension_count": 2, "rope.dimension_sections": [11, 11, 10, 0], "ssm.conv_kernel": 4,
    "ssm.state_size": 3, "ssm.group_count": 2, "ssm.time_step_rank": 6, "ssm.inner_size": 18,
    "full_attention_interval": 4,
}  # fmt: skip
MANY_KEYS = {"feed_forward_length": 7, "expert_shared_feed_forward_length": 9, **SEVEN}
# The keys beyond the plain ones, with what the class says where config.json is silent.
KEYS = {
    "llama": {RMS: 1e-6}, "mistral": {RMS: 1e-6}, "mixtral": {RMS: 1e-5, **MOE_KEYS}, "arcee": {RMS: 1e-5},
    "granite": {RMS: 1e-6, "attention.scale": 0.25, "embedding_scale": 12.0, "residual_scale": 0.2, "logit_scale": 8.0},
    "granitemoe": {RMS: 1e-6, "attention.scale": 1.0, "embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0,
                   **MOE_KEYS},
    "smollm3": {RMS: 1e-6}, "olmo": {LAYER: 1e-5, "attention.clamp_kqv": 8.0}, "qwen2": {RMS: 1e-6},
    "qwen3": {RMS: 1e-6}, "hunyuan_v1_dense": {RMS: 1e-5},
    "qwen2_moe": {RMS: 1e-6, "expert_shared_feed_forward_length": 9, **SEVEN}, "qwen3_moe": {RMS: 1e-6, **SEVEN},
    "olmoe": {RMS: 1e-5, "feed_forward_length": 7, **MOE_KEYS}, "gemma": {RMS: 1e-6},
    "gemma2": {RMS: 1e-6, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **ONE_OF_TWO},
    "gemma3_text": {RMS: 1e-6, "rope.freq_base_swa": 777.0, **THREE_OF_FOUR},
    "gemma3": {RMS: 1e-6, "rope.freq_base_swa": 777.0, **THREE_OF_FOUR},
    "phi": {LAYER: 1e-5, "rope.dimension_count": HEAD // 2, **ALL_HEADS}, "phi3": {RMS: 1e-5},
    "olmo2": {RMS: 1e-5}, "olmo3": {RMS: 1e-5, **THREE_OF_FOUR}, "exaone4": {RMS: 1e-5}, "seed_oss": {RMS: 1e-6},
    "cohere": {LAYER: 1e-5, "logit_scale": 0.25}, "cohere2": {LAYER: 1e-5, "logit_scale": 0.0625, **THREE_OF_FOUR},
    "starcoder2": {LAYER: 1e-5}, "nemotron": {LAYER: 1e-5, "rope.dimension_count": HEAD // 2},
    "stablelm": {LAYER: 1e-5, "rope.dimension_count": HEAD // 4, "use_parallel_residual": False},
    "gpt_neox": {LAYER: 1e-5, "rope.dimension_count": HEAD // 4, "use_parallel_residual": True, **ALL_HEADS},
    "falcon": {LAYER: 1e-5}, "glm4": {RMS: 1.5625e-7, "rope.dimension_count": HEAD // 2}, "ernie4_5": {RMS: 1e-5},
    "apertus": {RMS: 1e-5, "rope.freq_base": 12000000.0},
    "qwen3_5": LINEAR_KEYS, "qwen3_5_text": LINEAR_KEYS, "qwen3_5_moe": LINEAR_KEYS | MANY_KEYS,
    "qwen3_5_moe_text": LINEAR_KEYS | MANY_KEYS,
    "minicpm3": {RMS: 1e-5, "attention.q_lora_rank": LOW, "attention.kv_lora_rank": LOW,
                 "attention.key_length": NOPE + ROPE, "attention.value_length": VALUE, **ALL_HEADS},
    "gpt_oss": {RMS: 1e-5, "rope.freq_base": 150000.0, "expert_feed_forward_length": INNER, **MOE_KEYS, **ONE_OF_TWO},
    "deepseek_v2": {RMS: 1e-6, "expert_weights_scale": 1.0, "expert_weights_norm": False, "expert_gating_func": 1,
                    **LATENT_KEYS},
    "deepseek_v3": {RMS: 1e-6, "expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2,
                    "expert_group_count": 8, "expert_group_used_count": 4, **LATENT_KEYS},
}  # fmt: skip
