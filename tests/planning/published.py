"""Configurations of released models, as their authors published them (the values that sizes depend on), with the
number of parameters that their model cards or reports state."""

from __future__ import annotations

from typing import Any


def _config(
    model_type: str, layers: int, hidden: int, heads: int, vocab: int, length: int, **rest: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": vocab,
        "max_position_embeddings": length,
        **rest,
    }


MLA_V3 = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK_V3 = _config(
    "deepseek_v3", 61, 7168, 128, 129280, 163840, intermediate_size=18432, moe_intermediate_size=2048,
    n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3, num_key_value_heads=128,
    tie_word_embeddings=False, rope_theta=10000.0, **MLA_V3,
)  # fmt: skip
KIMI_K2 = DEEPSEEK_V3 | {
    "num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1,
    "vocab_size": 163840, "max_position_embeddings": 131072, "rope_theta": 50000.0,
}  # fmt: skip
GPT_OSS_20B = _config(
    "gpt_oss", 24, 2880, 64, 201088, 131072, intermediate_size=2880, num_key_value_heads=8, head_dim=64,
    num_local_experts=32, num_experts_per_tok=4, tie_word_embeddings=False, sliding_window=128,
    quantization_config={
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
        ],
    },
)  # fmt: skip
GPT_OSS_120B = GPT_OSS_20B | {"num_hidden_layers": 36, "num_local_experts": 128}

# name -> (configuration, parameters in billions as published)
PUBLISHED: dict[str, tuple[dict[str, Any], float]] = {
    "pythia-6.9b": (_config("gpt_neox", 32, 4096, 32, 50432, 2048, intermediate_size=16384, rotary_pct=0.25), 6.857),
    "pythia-1.4b": (_config("gpt_neox", 24, 2048, 16, 50304, 2048, intermediate_size=8192, rotary_pct=0.25), 1.415),
    "falcon-7b": (_config("falcon", 32, 4544, 71, 65024, 2048, multi_query=True, alibi=False), 6.92),
    "falcon-40b": (
        _config("falcon", 60, 8192, 128, 65024, 2048, num_kv_heads=8, new_decoder_architecture=True, alibi=False), 41.3,
    ),
    "phi-2": (_config("phi", 32, 2560, 32, 51200, 2048, intermediate_size=10240, partial_rotary_factor=0.4), 2.78),
    "gpt-j-6b": (
        {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "vocab_size": 50400, "n_positions": 2048,
         "rotary_dim": 64, "tie_word_embeddings": False}, 6.05,
    ),
    "starcoder2-15b": (
        _config("starcoder2", 40, 6144, 48, 49152, 16384, intermediate_size=24576, num_key_value_heads=4,
                rope_theta=100000.0, tie_word_embeddings=False), 15.96,
    ),
    "nemotron-minitron-4b": (
        _config("nemotron", 32, 3072, 24, 256000, 4096, intermediate_size=9216, num_key_value_heads=8, head_dim=128),
        4.19,
    ),
    "minicpm3-4b": (
        _config("minicpm3", 62, 2560, 40, 73448, 32768, intermediate_size=6400, num_key_value_heads=40, q_lora_rank=768,
                kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, tie_word_embeddings=True),
        4.07,
    ),
    "deepseek-v3": (DEEPSEEK_V3, 671.0),
    "deepseek-v2-lite": (
        _config("deepseek_v2", 27, 2048, 16, 102400, 163840, intermediate_size=10944, moe_intermediate_size=1408,
                n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6, first_k_dense_replace=1,
                num_key_value_heads=16, q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
                v_head_dim=128), 15.7,
    ),
    "kimi-k2": (KIMI_K2, 1026.0),
    "gpt-oss-20b": (GPT_OSS_20B, 20.9),
    "gpt-oss-120b": (GPT_OSS_120B, 116.8),
    "mixtral-8x7b": (
        _config("mixtral", 32, 4096, 32, 32000, 32768, intermediate_size=14336, num_key_value_heads=8,
                num_local_experts=8, num_experts_per_tok=2, rope_theta=1e6), 46.7,
    ),
    "mixtral-8x22b": (
        _config("mixtral", 56, 6144, 48, 32768, 65536, intermediate_size=16384, num_key_value_heads=8,
                num_local_experts=8, num_experts_per_tok=2, rope_theta=1e6), 140.6,
    ),
    "qwen3-30b-a3b": (
        _config("qwen3_moe", 48, 2048, 32, 151936, 40960, intermediate_size=6144, moe_intermediate_size=768,
                num_experts=128, num_experts_per_tok=8, num_key_value_heads=4, head_dim=128, decoder_sparse_step=1,
                mlp_only_layers=[], rope_theta=1e6, tie_word_embeddings=False), 30.5,
    ),
    "qwen3-235b-a22b": (
        _config("qwen3_moe", 94, 4096, 64, 151936, 40960, intermediate_size=12288, moe_intermediate_size=1536,
                num_experts=128, num_experts_per_tok=8, num_key_value_heads=4, head_dim=128, rope_theta=1e6,
                tie_word_embeddings=False), 235.0,
    ),
    "qwen1.5-moe-a2.7b": (
        _config("qwen2_moe", 24, 2048, 16, 151936, 8192, intermediate_size=5632, moe_intermediate_size=1408,
                shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4, num_key_value_heads=16,
                tie_word_embeddings=False), 14.3,
    ),
    "qwen2.5-0.5b": (
        _config("qwen2", 24, 896, 14, 151936, 32768, intermediate_size=4864, num_key_value_heads=2,
                tie_word_embeddings=True), 0.494,
    ),
    "qwen2.5-7b": (
        _config("qwen2", 28, 3584, 28, 152064, 131072, intermediate_size=18944, num_key_value_heads=4,
                tie_word_embeddings=False), 7.62,
    ),
    "qwen3-8b": (
        _config("qwen3", 36, 4096, 32, 151936, 40960, intermediate_size=12288, num_key_value_heads=8, head_dim=128,
                tie_word_embeddings=False), 8.19,
    ),
    "gemma-2b": (
        _config("gemma", 18, 2048, 8, 256000, 8192, intermediate_size=16384, num_key_value_heads=1, head_dim=256), 2.51,
    ),
    "gemma-7b": (
        _config("gemma", 28, 3072, 16, 256000, 8192, intermediate_size=24576, num_key_value_heads=16, head_dim=256),
        8.54,
    ),
    "gemma-2-9b": (
        _config("gemma2", 42, 3584, 16, 256000, 8192, intermediate_size=14336, num_key_value_heads=8, head_dim=256),
        9.24,
    ),
    "gemma-3-1b": (
        _config("gemma3_text", 26, 1152, 4, 262144, 32768, intermediate_size=6912, num_key_value_heads=1, head_dim=256),
        1.0,
    ),
    "llama-2-7b": (_config("llama", 32, 4096, 32, 32000, 4096, intermediate_size=11008), 6.738),
    "llama-2-70b": (
        _config("llama", 80, 8192, 64, 32000, 4096, intermediate_size=28672, num_key_value_heads=8), 68.98,
    ),
    "llama-3.1-8b": (
        _config("llama", 32, 4096, 32, 128256, 131072, intermediate_size=14336, num_key_value_heads=8,
                rope_theta=5e5), 8.03,
    ),
    "llama-3.2-1b": (
        _config("llama", 16, 2048, 32, 128256, 131072, intermediate_size=8192, num_key_value_heads=8, head_dim=64,
                rope_theta=5e5, tie_word_embeddings=True), 1.236,
    ),
    "llama-4-scout": (
        _config("llama4_text", 48, 5120, 40, 202048, 10485760, intermediate_size=8192, intermediate_size_mlp=16384,
                num_key_value_heads=8, head_dim=128, num_local_experts=16, num_experts_per_tok=1,
                interleave_moe_layer_step=1, rope_theta=5e5), 107.8,
    ),
    "llama-4-maverick": (
        _config("llama4_text", 48, 5120, 40, 202048, 1048576, intermediate_size=8192, intermediate_size_mlp=16384,
                num_key_value_heads=8, head_dim=128, num_local_experts=128, num_experts_per_tok=1,
                interleave_moe_layer_step=2, rope_theta=5e5), 400.7,
    ),
    "mistral-7b": (
        _config("mistral", 32, 4096, 32, 32000, 32768, intermediate_size=14336, num_key_value_heads=8,
                sliding_window=4096), 7.24,
    ),
    "phi-3-mini": (_config("phi3", 32, 3072, 32, 32064, 4096, intermediate_size=8192), 3.82),
    "phi-3.5-moe": (
        _config("phimoe", 32, 4096, 32, 32064, 4096, intermediate_size=6400, num_key_value_heads=8,
                num_local_experts=16, num_experts_per_tok=2), 41.9,
    ),
    "yi-34b": (
        _config("llama", 60, 7168, 56, 64000, 4096, intermediate_size=20480, num_key_value_heads=8, rope_theta=5e6),
        34.4,
    ),
    "olmoe-1b-7b": (
        _config("olmoe", 16, 2048, 16, 50304, 4096, intermediate_size=1024, num_experts=64,
                num_experts_per_tok=8), 6.92,
    ),
    "command-r": (
        _config("cohere", 40, 8192, 64, 256000, 131072, intermediate_size=22528, num_key_value_heads=64,
                rope_theta=8e6), 35.0,
    ),
    "dbrx": (
        {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768,
         "vocab_size": 100352, "attn_config": {"kv_n_heads": 8, "rope_theta": 500000, "clip_qkv": 8},
         "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752}}, 131.6,
    ),
    "glm-4.5": (
        _config("glm4_moe", 92, 5120, 96, 151552, 131072, intermediate_size=12288, moe_intermediate_size=1536,
                n_routed_experts=160, n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3,
                num_key_value_heads=8, head_dim=128, partial_rotary_factor=0.5, rope_theta=1e6), 353.0,
    ),
}  # fmt: skip
