"""The configurations of well-known releases, as values: what bears on rotation, as their makers published it.

Sizes that no rotary value depends on (vocabulary, experts) are kept where they are cheap and left out elsewhere.
"""

from __future__ import annotations

from typing import Any


def llama(
    hidden: int, heads: int, kv: int, layers: int, window: int, theta: float | None = None, **more: Any
) -> dict[str, Any]:
    base = {"rope_theta": theta} if theta is not None else {}
    return (
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "num_hidden_layers": layers,
            "intermediate_size": 1024,
            "max_position_embeddings": window,
            "vocab_size": 262208,
        }
        | base
        | more
    )


def llama3(factor: float, low: float = 1.0, high: float = 4.0, original: int = 8192) -> dict[str, Any]:
    return {
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
        "rope_type": "llama3",
    }


def deepseek(
    layers: int, heads: int, window: int, theta: float, scaling: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return llama(
        2048, heads, heads, layers, window, theta, model_type="deepseek_v3", kv_lora_rank=512, q_lora_rank=1536,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=8, num_experts_per_tok=2,
        n_group=1, topk_group=1, moe_intermediate_size=64, first_k_dense_replace=1, rope_scaling=scaling,
    ) | more  # fmt: skip


_DEEPSEEK_YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
PHI3_LONG = [
    1.0700000524520874, 1.1200000047683716, 1.149999976158142, 1.4199999570846558, 1.5699999332427979,
    1.7999999523162842, 2.129999876022339, 2.129999876022339, 3.009999990463257, 5.910000324249268, 6.950000286102295,
    9.070000648498535, 9.930000305175781, 10.710000038146973, 11.130000114440918, 14.609999656677246,
    15.409998893737793, 19.809999465942383, 37.279998779296875, 38.279998779296875, 38.599998474121094,
    40.12000274658203, 46.20000457763672, 50.940006256103516, 53.66000747680664, 54.9373893737793, 56.89738845825195,
    57.28738784790039, 59.98738479614258, 60.86738586425781, 60.887386322021484, 61.71739196777344,
    62.91739273071289, 62.957393646240234, 63.41739273071289, 63.8173942565918, 63.83739471435547, 63.897396087646484,
    63.93739700317383, 64.06739807128906, 64.11434936523438, 64.12435150146484, 64.15435028076172, 64.19435119628906,
    64.24435424804688, 64.57435607910156, 64.69000244140625, 64.76000213623047,
]  # fmt: skip
_PHI_LONGROPE = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": PHI3_LONG}
_EXAONE_LAYERS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]

OFFICIAL: dict[str, dict[str, Any]] = {
    # Llama and what is built on its class
    "llama-2-7b": llama(4096, 32, 32, 32, 4096, rope_scaling=None),
    "llama-2-70b": llama(8192, 64, 8, 80, 4096, rope_scaling=None),
    "codellama-7b": llama(4096, 32, 32, 32, 16384, 1e6, rope_scaling=None),
    "llama-3-8b": llama(4096, 32, 8, 32, 8192, 5e5, rope_scaling=None),
    "llama-3.1-8b": llama(4096, 32, 8, 32, 131072, 5e5, rope_scaling=llama3(8.0)),
    "llama-3.1-405b": llama(16384, 128, 8, 126, 131072, 5e5, rope_scaling=llama3(8.0)),
    "llama-3.2-1b": llama(
        2048, 32, 8, 16, 131072, 5e5, head_dim=64, rope_scaling=llama3(32.0), tie_word_embeddings=True
    ),
    "llama-3.3-70b": llama(8192, 64, 8, 80, 131072, 5e5, rope_scaling=llama3(8.0)),
    "tinyllama-1.1b": llama(2048, 32, 4, 22, 2048, rope_scaling=None),
    "vicuna-7b-v1.5-16k": llama(
        4096, 32, 32, 32, 4096, rope_scaling={"factor": 4.0, "type": "linear"}, max_sequence_length=16384
    ),
    "yarn-llama-2-7b-64k": llama(
        4096,
        32,
        32,
        32,
        65536,
        rope_scaling={
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
            "finetuned": True,
        },
    ),
    "deepseek-coder-6.7b": llama(
        4096, 32, 32, 32, 16384, 1e5, rope_scaling={"factor": 4.0, "type": "linear"}
    ),
    "yi-6b": llama(4096, 32, 4, 32, 4096, 5e6),
    "yi-34b-200k": llama(7168, 56, 8, 60, 200000, 1e7),
    "smollm2-1.7b": llama(2048, 32, 32, 24, 8192, 130000, rope_scaling=None),
    "falcon3-7b": llama(3072, 12, 4, 28, 32768, 1000042, head_dim=256, rope_scaling=None),
    "llama-4-scout": {
        "model_type": "llama4",
        "text_config": llama(
            5120,
            40,
            8,
            48,
            10485760,
            5e5,
            model_type="llama4_text",
            head_dim=128,
            attention_chunk_size=8192,
            rope_scaling=llama3(16.0, 1.0, 1.0),
            intermediate_size_mlp=512,
            num_local_experts=2,
            interleave_moe_layer_step=1,
            attn_temperature_tuning=True,
            no_rope_layers=[1, 1, 1, 0] * 12,
        ),
    },
    "llama-4-maverick": {
        "model_type": "llama4",
        "text_config": llama(
            5120,
            40,
            8,
            48,
            1048576,
            5e5,
            model_type="llama4_text",
            head_dim=128,
            attention_chunk_size=8192,
            rope_scaling=None,
            intermediate_size_mlp=512,
            num_local_experts=2,
            interleave_moe_layer_step=2,
            no_rope_layers=[1, 1, 1, 0] * 12,
        ),
    },
    # Mistral
    "mistral-7b-v0.1": llama(4096, 32, 8, 32, 32768, 1e4, model_type="mistral", sliding_window=4096),
    "mistral-7b-v0.3": llama(4096, 32, 8, 32, 32768, 1e6, model_type="mistral", sliding_window=None),
    "mistral-nemo-12b": llama(
        5120, 32, 8, 40, 131072, 1e6, model_type="mistral", head_dim=128, sliding_window=None
    ),
    "mistral-large-2407": llama(
        12288, 96, 8, 88, 131072, 1e6, model_type="mistral", head_dim=128, sliding_window=None
    ),
    "ministral-8b": llama(
        4096, 32, 8, 36, 32768, 1e8, model_type="mistral", head_dim=128, sliding_window=32768
    ),
    "yarn-mistral-7b-128k": llama(
        4096,
        32,
        8,
        32,
        32768,
        1e4,
        model_type="mistral",
        sliding_window=131072,
        max_sequence_length=131072,
        rope_scaling={
            "factor": 16.0,
            "finetuned": True,
            "original_max_position_embeddings": 8192,
            "type": "yarn",
        },
    ),
    "mixtral-8x7b": llama(
        4096, 32, 8, 32, 32768, 1e6, model_type="mixtral", sliding_window=None, num_local_experts=2
    ),
    "mistral-small-3.1-24b": {
        "model_type": "mistral3",
        "text_config": llama(
            5120, 32, 8, 40, 131072, 1e9, model_type="mistral", head_dim=128, sliding_window=None
        ),
    },
    # Qwen
    "qwen2-7b": llama(
        3584,
        28,
        4,
        28,
        131072,
        1e6,
        model_type="qwen2",
        sliding_window=131072,
        use_sliding_window=False,
        max_window_layers=28,
    ),
    "qwen2.5-7b-instruct": llama(
        3584,
        28,
        4,
        28,
        32768,
        1e6,
        model_type="qwen2",
        sliding_window=131072,
        use_sliding_window=False,
        max_window_layers=28,
    ),
    "qwen2.5-7b-instruct-1m": llama(
        3584,
        28,
        4,
        28,
        1010000,
        1e7,
        model_type="qwen2",
        sliding_window=32768,
        use_sliding_window=False,
        max_window_layers=28,
        dual_chunk_attention_config={
            "chunk_size": 262144,
            "local_size": 8192,
            "original_max_position_embeddings": 262144,
        },
    ),
    "qwen3-8b": llama(
        4096,
        32,
        8,
        36,
        40960,
        1e6,
        model_type="qwen3",
        head_dim=128,
        rope_scaling=None,
        sliding_window=None,
        use_sliding_window=False,
    ),
    "qwen3-8b-yarn": llama(
        4096,
        32,
        8,
        36,
        131072,
        1e6,
        model_type="qwen3",
        head_dim=128,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "qwen3-30b-a3b-2507": llama(
        2048,
        32,
        4,
        48,
        262144,
        1e7,
        model_type="qwen3_moe",
        head_dim=128,
        rope_scaling=None,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
    ),
    "qwen3-next-80b-a3b": llama(
        2048,
        16,
        2,
        48,
        262144,
        1e7,
        model_type="qwen3_next",
        head_dim=256,
        partial_rotary_factor=0.25,
        rope_scaling=None,
        full_attention_interval=4,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    # Gemma
    "gemma-2b": llama(2048, 8, 1, 18, 8192, 1e4, model_type="gemma", head_dim=256),
    "gemma-2-9b": llama(3584, 16, 8, 42, 8192, 1e4, model_type="gemma2", head_dim=256, sliding_window=4096),
    "gemma-3-1b": llama(
        1152,
        4,
        1,
        26,
        32768,
        1e6,
        model_type="gemma3_text",
        head_dim=256,
        sliding_window=512,
        sliding_window_pattern=6,
        rope_local_base_freq=1e4,
        rope_scaling=None,
    ),
    "gemma-3-27b": {
        "model_type": "gemma3",
        "text_config": llama(
            5376,
            32,
            16,
            62,
            131072,
            1e6,
            model_type="gemma3_text",
            head_dim=128,
            sliding_window=1024,
            sliding_window_pattern=6,
            rope_local_base_freq=1e4,
            rope_scaling={"factor": 8.0, "rope_type": "linear"},
        ),
    },
    # Phi
    "phi-2": llama(
        2560, 32, 32, 32, 2048, 1e4, model_type="phi", partial_rotary_factor=0.4, rope_scaling=None
    ),
    "phi-3-mini-4k": llama(
        3072,
        32,
        32,
        32,
        4096,
        1e4,
        model_type="phi3",
        sliding_window=2047,
        rope_scaling=None,
        original_max_position_embeddings=4096,
    ),
    "phi-3-mini-128k": llama(
        3072,
        32,
        32,
        32,
        131072,
        1e4,
        model_type="phi3",
        sliding_window=262144,
        rope_scaling=_PHI_LONGROPE,
        original_max_position_embeddings=4096,
    ),
    "phi-4": llama(
        5120,
        40,
        10,
        40,
        16384,
        250000,
        model_type="phi3",
        sliding_window=None,
        rope_scaling=None,
        original_max_position_embeddings=16384,
    ),
    "phi-4-mini": llama(
        3072,
        24,
        8,
        32,
        131072,
        1e4,
        model_type="phi3",
        partial_rotary_factor=0.75,
        sliding_window=262144,
        rope_scaling=_PHI_LONGROPE,
        original_max_position_embeddings=4096,
    ),
    # mixtures with YaRN from the start
    "gpt-oss-20b": llama(
        2880,
        64,
        8,
        24,
        131072,
        150000,
        model_type="gpt_oss",
        head_dim=64,
        sliding_window=128,
        num_local_experts=2,
        num_experts_per_tok=2,
        initial_context_length=4096,
        rope_scaling={
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        layer_types=["sliding_attention", "full_attention"] * 12,
    ),
    "deepseek-v2-lite": deepseek(
        27,
        16,
        163840,
        1e4,
        _DEEPSEEK_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        model_type="deepseek_v2",
        q_lora_rank=None,
        topk_method="greedy",
    ),
    "deepseek-v3": deepseek(61, 128, 163840, 1e4, _DEEPSEEK_YARN, num_nextn_predict_layers=1),
    # Its own model_type is kimi_k2, with deepseek_v3's code.
    "kimi-k2": deepseek(
        61, 64, 131072, 5e4, _DEEPSEEK_YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0}
    ),
    # GLM, Command, Falcon, Pythia, StableLM, StarCoder, OLMo, SmolLM, Granite, EXAONE, ...
    "glm-4-9b-chat": llama(
        4096, 32, 2, 40, 131072, 1e4, model_type="glm", head_dim=128, partial_rotary_factor=0.5
    ),
    "glm-4-32b-0414": llama(
        6144, 48, 2, 61, 32768, 1e4, model_type="glm4", head_dim=128, partial_rotary_factor=0.5
    ),
    "glm-4.5": llama(
        5120,
        96,
        8,
        92,
        131072,
        1e6,
        model_type="glm4_moe",
        head_dim=128,
        partial_rotary_factor=0.5,
        rope_scaling=None,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=64,
        num_nextn_predict_layers=1,
    ),
    "command-r-v01": llama(8192, 64, 64, 40, 8192, 8e6, model_type="cohere", model_max_length=131072),
    "command-r7b": llama(
        4096, 32, 8, 32, 132096, 5e4, model_type="cohere2", head_dim=128, sliding_window=4096
    ),
    "falcon-7b": {
        "model_type": "falcon",
        "hidden_size": 4544,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "multi_query": True,
        "alibi": False,
        "vocab_size": 262208,
    },
    "pythia-6.9b": {
        "model_type": "gpt_neox",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "intermediate_size": 512,
        "max_position_embeddings": 2048,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "vocab_size": 262208,
    },
    "stablelm-2-1.6b": llama(2048, 32, 32, 24, 4096, 1e4, model_type="stablelm", partial_rotary_factor=0.25),
    "starcoder2-15b": llama(6144, 48, 4, 40, 16384, 1e5, model_type="starcoder2", sliding_window=4096),
    "olmo-2-7b": llama(4096, 32, 32, 32, 4096, 5e5, model_type="olmo2", rope_scaling=None),
    "olmo-3-7b": llama(
        4096,
        32,
        32,
        32,
        65536,
        5e5,
        model_type="olmo3",
        sliding_window=4096,
        layer_types=_EXAONE_LAYERS * 8,
        rope_scaling={
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "yarn",
        },
    ),
    "smollm3-3b": llama(
        2048,
        16,
        4,
        36,
        65536,
        5e6,
        model_type="smollm3",
        no_rope_layers=[1, 1, 1, 0] * 9,
        no_rope_layer_interval=4,
        rope_scaling=None,
    ),
    "granite-3.1-8b": llama(4096, 32, 8, 40, 131072, 1e7, model_type="granite", rope_scaling=None),
    "exaone-4.0-32b": llama(
        5120,
        40,
        8,
        64,
        131072,
        1e6,
        model_type="exaone4",
        head_dim=128,
        sliding_window=4096,
        sliding_window_pattern="LLLG",
        layer_types=_EXAONE_LAYERS * 16,
        rope_scaling=llama3(16.0),
    ),
    "nemotron-4-minitron-8b": llama(
        4096, 48, 8, 32, 4096, 1e4, model_type="nemotron", head_dim=128, partial_rotary_factor=0.5
    ),
    "hunyuan-a13b": llama(
        4096,
        32,
        8,
        32,
        32768,
        1e4,
        model_type="hunyuan_v1_moe",
        head_dim=128,
        attention_head_dim=128,
        num_experts=4,
        moe_topk=2,
        rope_scaling={
            "alpha": 1000.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
    ),
    "minimax-m2": llama(
        3072,
        48,
        8,
        62,
        196608,
        5e6,
        model_type="minimax_m2",
        head_dim=128,
        rotary_dim=64,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "seed-oss-36b": llama(
        5120,
        80,
        8,
        64,
        524288,
        1e7,
        model_type="seed_oss",
        head_dim=128,
        rope_scaling={"rope_type": "default"},
    ),
    "ernie-4.5-21b-a3b": llama(
        2560, 20, 4, 28, 131072, 5e5, model_type="ernie4_5_moe", moe_num_experts=4, moe_k=2
    ),
    "apertus-8b": llama(4096, 32, 8, 32, 65536, 12000000, model_type="apertus", rope_scaling=llama3(8.0)),
}
