"""What llama.cpp reads of a layer of every family, written out by hand."""

from __future__ import annotations

import numpy as np
from gguf_checkpoints import EXPERTS, HEAD, HEADS, INNER, KV, LOW, NOPE, VALUE


def linear_attention(here: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Six value heads of three numbers, three to a key: 0, 3, 1, 4, 2, 5."""
    order, wide = [0, 3, 1, 4, 2, 5], 12
    blocks = [slice(3 * head, 3 * head + 3) for head in order]
    fused, gate = here["linear_attn.in_proj_qkv.weight"], here["linear_attn.in_proj_z.weight"]
    kernel, out = here["linear_attn.conv1d.weight"][:, 0], here["linear_attn.out_proj.weight"]
    return {
        "attn_qkv.weight": np.concatenate([fused[:wide], *[fused[wide:][block] for block in blocks]]),
        "attn_gate.weight": np.concatenate([gate[block] for block in blocks]),
        "ssm_conv1d.weight": np.concatenate([kernel[:wide], *[kernel[wide:][block] for block in blocks]]),
        "ssm_out.weight": np.concatenate([out[:, block] for block in blocks], axis=1),
        "ssm_alpha.weight": here["linear_attn.in_proj_a.weight"][order],
        "ssm_beta.weight": here["linear_attn.in_proj_b.weight"][order],
        "ssm_dt.bias": here["linear_attn.dt_bias"][order],
        "ssm_a": -np.exp(here["linear_attn.A_log"][order]),
        "ssm_norm.weight": here["linear_attn.norm.weight"],
        "attn_norm.weight": here["input_layernorm.weight"] + np.float32(1),
    }


def neighbours(rows, heads):
    out, width = np.empty_like(rows), len(rows) // heads
    for head in range(heads):
        for at in range(width // 2):
            out[head * width + 2 * at] = rows[head * width + at]
            out[head * width + 2 * at + 1] = rows[head * width + width // 2 + at]
    return out


def together(weights, at, name, where="mlp.experts"):
    return np.stack(
        [weights[f"model.layers.{at}.{where}.{number}.{name}.weight"] for number in range(EXPERTS)]
    )


def parts(rows, order):
    """Blocks of one head's rows, in that order."""
    return np.concatenate([rows[block * HEAD : (block + 1) * HEAD] for block in order])


def expected(name: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What llama.cpp reads of layer 2 where it is not simply renamed, written out by hand."""
    here = {
        key.split(".2.", 1)[1]: value
        for key, value in weights.items()
        if ".layers.2." in key or ".h.2." in key
    }
    q, k = here.get("self_attn.q_proj.weight"), here.get("self_attn.k_proj.weight")
    if name in ("llama", "mistral", "granite", "granitemoe", "mixtral", "arcee", "smollm3", "olmo"):
        found = {"attn_q.weight": neighbours(q, HEADS), "attn_k.weight": neighbours(k, KV)}
        if name == "mixtral":
            for new, old in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                found[f"ffn_{new}_exps.weight"] = together(weights, 2, old, "block_sparse_moe.experts")
        if name == "granitemoe":
            both = here["block_sparse_moe.input_linear.weight"]
            found |= {"ffn_gate_exps.weight": both[:, :INNER], "ffn_up_exps.weight": both[:, INNER:],
                      "ffn_down_exps.weight": here["block_sparse_moe.output_linear.weight"]}  # fmt: skip
        return found
    found = {} if q is None else {"attn_q.weight": q, "attn_k.weight": k}
    if name in ("qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"):
        for part in ("gate", "up", "down"):
            found[f"ffn_{part}_exps.weight"] = together(weights, 2, f"{part}_proj")
        found["ffn_gate_inp.weight"] = here["mlp.gate.weight"]
    if name in ("deepseek_v2", "deepseek_v3"):
        both = here["self_attn.kv_b_proj.weight"].reshape(HEADS, NOPE + VALUE, LOW)
        found["attn_k_b.weight"] = np.stack([both[head, :NOPE].T for head in range(HEADS)])
        found["attn_v_b.weight"] = np.stack([both[head, NOPE:] for head in range(HEADS)])
    if name == "deepseek_v3":
        found["exp_probs_b.bias"] = here["mlp.gate.e_score_correction_bias"]
    if name.startswith("gemma"):
        found |= {"attn_norm.weight": here["input_layernorm.weight"] + np.float32(1)}
    if name in ("gemma2", "gemma3_text", "gemma3"):
        olds = {"post_attention_norm": "post_attention", "ffn_norm": "pre_feedforward"}
        olds["post_ffw_norm"] = "post_feedforward"
        found |= {
            f"{new}.weight": here[f"{old}_layernorm.weight"] + np.float32(1) for new, old in olds.items()
        }
    if name in ("gemma3_text", "gemma3"):
        found |= {
            f"attn_{which}_norm.weight": here[f"self_attn.{which}_norm.weight"] + np.float32(1)
            for which in "qk"
        }
    if name == "nemotron":
        found |= {"attn_norm.weight": here["input_layernorm.weight"] + np.float32(1),
                  "ffn_norm.weight": here["post_attention_layernorm.weight"] + np.float32(1),
                  "ffn_norm.bias": here["post_attention_layernorm.bias"]}  # fmt: skip
    if name == "gpt_neox":
        order = [3 * head + which for which in range(3) for head in range(HEADS)]
        fused = "attention.query_key_value"
        found = {f"attn_qkv.{kind}": parts(here[f"{fused}.{kind}"], order) for kind in ("weight", "bias")}
    if name == "falcon":
        # Two groups of two queries, a key and a value each.
        found = {"attn_qkv.weight": parts(here["self_attention.query_key_value.weight"], [0, 1, 4, 5, 2, 6, 3, 7]),
                 "attn_norm.weight": here["ln_mlp.weight"], "attn_norm_2.weight": here["ln_attn.weight"]}  # fmt: skip
    if name == "gpt_oss":
        both, bias = here["mlp.experts.gate_up_proj"], here["mlp.experts.gate_up_proj_bias"]
        for at, part in enumerate(("gate", "up")):
            found[f"ffn_{part}_exps.weight"] = np.stack([both[e][:, at::2].T for e in range(EXPERTS)])
            found[f"ffn_{part}_exps.bias"] = bias[:, at::2]
        found |= {"ffn_down_exps.weight": np.stack([here["mlp.experts.down_proj"][e].T for e in range(EXPERTS)]),
                  "attn_sinks.weight": here["self_attn.sinks"]}  # fmt: skip
    if name in ("glm4", "phi3"):
        found["ffn_up.weight"] = here["mlp.gate_up_proj.weight"]
    if name == "cohere":
        found["ffn_gate.weight"] = here["mlp.gate_proj.weight"]
    if name in ("olmo2", "olmo3", "exaone4", "glm4"):
        olds = (
            ("self_attn_" if name == "glm4" else "attention_"),
            ("mlp_" if name == "glm4" else "feedforward_"),
        )
        found |= {"post_attention_norm.weight": here[f"post_{olds[0]}layernorm.weight"],
                  "post_ffw_norm.weight": here[f"post_{olds[1]}layernorm.weight"]}  # fmt: skip
    if name == "apertus":
        found["ffn_norm.weight"] = here["feedforward_layernorm.weight"]
    if name in ("qwen3", "qwen3_moe", "exaone4", "apertus"):
        found["attn_k_norm.weight"] = here["self_attn.k_norm.weight"]
    if name in ("seed_oss", "qwen2", "glm4", "starcoder2"):
        found["attn_v.bias"] = here["self_attn.v_proj.bias"]
    if name.startswith("qwen3_5"):
        found = linear_attention(here)
        if name == "qwen3_5_moe":
            both = here["mlp.experts.gate_up_proj"]
            found |= {"ffn_gate_exps.weight": both[:, :7], "ffn_up_exps.weight": both[:, 7:]}
            found["ffn_down_exps.weight"] = here["mlp.experts.down_proj"]
        if name == "qwen3_5_moe_text":
            for part in ("gate", "up", "down"):
                found[f"ffn_{part}_exps.weight"] = together(weights, 2, f"{part}_proj")
        return found
    if name == "minicpm3":
        found["attn_kv_b.weight"] = here["self_attn.kv_b_proj.weight"]
    if name == "phi":
        found |= {"attn_output.bias": here["self_attn.dense.bias"], "ffn_down.weight": here["mlp.fc2.weight"]}
    return found
