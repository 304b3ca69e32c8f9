"""What a GGUF file says about its model, as the config.json that it was made from would say it.

Only architectures whose metadata tell all about their rotation are read; of the others (one rotary entry a layer type,
several axes, latent heads) the file does not say enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.methods.build import temperature
from ropewalk.models.gguf.file import ARRAY, F32, GgufFile, read_gguf
from ropewalk.models.structure.values import is_number, shown

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# llama.cpp's name for a model_type. Another name in the file means another model.
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next", "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35", "qwen3_5_moe": "qwen35moe", "qwen3_5_moe_text": "qwen35moe", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "gemma4": "gemma4", "gemma4_text": "gemma4",
    "phi": "phi2", "phi3": "phi3", "phimoe": "phimoe", "olmo": "olmo", "olmoe": "olmoe", "olmo2": "olmo2",
    "olmo3": "olmo2", "cohere": "command-r", "cohere2": "cohere2", "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2", "gpt_oss": "gpt-oss", "glm": "chatglm", "glm4": "glm4", "glm4_moe": "glm4moe",
    "granite": "granite", "granitemoe": "granitemoe", "smollm3": "smollm3", "falcon": "falcon",
    "gpt_neox": "gptneox", "starcoder2": "starcoder2",
    "minicpm": "minicpm", "minicpm3": "minicpm3", "stablelm": "stablelm", "exaone4": "exaone4", "nemotron": "nemotron",
    "ernie4_5": "ernie4_5", "seed_oss": "seed_oss", "apertus": "apertus", "arcee": "arcee", "hunyuan_v1_dense":
    "hunyuan-dense", "bitnet": "bitnet", "lfm2": "lfm2",
}  # fmt: skip
# One rotary entry, all of it in the metadata: by llama.cpp's name, the model_type that is taken.
_READ = {
    "llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "phi3": "phi3", "command-r": "cohere", "granite": "granite", "smollm3": "smollm3", "falcon": "falcon",
    "starcoder2": "starcoder2", "stablelm": "stablelm", "nemotron": "nemotron", "arcee": "arcee",
}  # fmt: skip
_FULL_WIDTH = {0: "float32", 1: "float16", 30: "bfloat16"}
_OTHERWISE = "give the Hugging Face folder that it was made from, and the file with export --gguf"


def config_of(path: Path) -> dict[str, Any]:
    """The configuration in a GGUF file's metadata and factor tensors.

    RopewalkError for an architecture whose file does not say enough and for one part of several; DamagedError for a
    file that is cut or misses what every model has.
    """
    found = read_gguf(path)
    model_type = _READ.get(found.architecture)
    if found.get("split.count") not in (None, 0, 1):
        raise RopewalkError(
            f"{path} is one part of {found.get('split.count')}",
            hint="merge the parts first: llama-gguf-split --merge",
        )
    if model_type is None:
        raise RopewalkError(
            f"{path} holds the architecture {one_line(found.architecture, 40)!r}, of which a GGUF file does not tell "
            "the whole rotation",
            hint=_OTHERWISE,
        )
    # llama.cpp has one name for both.
    if model_type == "llama" and found.own("expert_count"):
        model_type = "mixtral"
    config = {"model_type": model_type} | _shape(found) | _experts(found)
    config |= {"rope_theta": _real(found, "rope.freq_base") or 10000.0}
    scaling = _scaling(found, config)
    if scaling:
        config["rope_scaling"] = scaling
    return config | _stored(found)


def _whole(found: GgufFile, name: str, *, needed: bool = True) -> int | None:
    value = found.own(name)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if needed:
        raise DamagedError(
            f"{found.path} has no usable {found.architecture}.{name}", hint="fetch or convert the file again"
        )
    return None


def _real(found: GgufFile, name: str) -> float | None:
    """A number that may be missing. What stands there as text was not written by any converter."""
    value = found.own(name)
    if value is None or is_number(value):
        return value
    raise DamagedError(
        f"{found.path}: {found.architecture}.{name}={shown(value)} is no number",
        hint="fetch or convert the file again",
    )


def _shape(found: GgufFile) -> dict[str, Any]:
    heads, hidden = _whole(found, "attention.head_count"), _whole(found, "embedding_length")
    assert heads is not None
    assert hidden is not None
    head_dim = _whole(found, "attention.key_length", needed=False) or hidden // heads
    rotary = _whole(found, "rope.dimension_count", needed=False) or head_dim
    tokens = next((key for key in found.keys if key.name == "tokenizer.ggml.tokens"), None)
    # An array's bytes: four for its type, four for that of its entries, eight for how many there are.
    listed = int.from_bytes(tokens.raw[8:16], "little") if tokens is not None and tokens.kind == ARRAY else 0
    made = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(found, "attention.head_count_kv", needed=False) or heads,
        "head_dim": head_dim,
        "num_hidden_layers": _whole(found, "block_count"),
        "intermediate_size": _whole(found, "feed_forward_length", needed=False),
        "vocab_size": _whole(found, "vocab_size", needed=False) or listed or None,
        "max_position_embeddings": _whole(found, "context_length"),
        "partial_rotary_factor": None if rotary == head_dim else rotary / head_dim,
        "sliding_window": _whole(found, "attention.sliding_window", needed=False),
    }
    return {name: value for name, value in made.items() if value is not None}


def _experts(found: GgufFile) -> dict[str, Any]:
    names = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
             "expert_feed_forward_length": "moe_intermediate_size"}  # fmt: skip
    made = {new: _whole(found, old, needed=False) for old, new in names.items()}
    if made["num_experts"] and not made["moe_intermediate_size"]:
        made["num_local_experts"] = made.pop("num_experts")
    return {name: value for name, value in made.items() if value is not None}


def _scaling(found: GgufFile, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The older keys' entry, of what llama.cpp computes from this file."""
    # `scale_linear` is the key of files from before there were types.
    older = _real(found, "rope.scale_linear")
    kind = found.own("rope.scaling.type") or ("linear" if older else "none")
    factor = _real(found, "rope.scaling.factor") or older or 1.0
    original = _whole(found, "rope.scaling.original_context_length", needed=False)
    attention = _real(found, "rope.scaling.attn_factor")
    factors = {name: _values(found, name) for name in ROPE_TENSORS}
    single, long, short = (factors[name] for name in ROPE_TENSORS)
    if kind in ("linear", "yarn") and (single or long):
        raise RopewalkError(
            f"{found.path} holds both the scaling {kind} and a tensor of factors, which multiply",
            hint=_OTHERWISE,
        )
    if kind == "linear":
        made: dict[str, Any] = {"type": "linear", "factor": factor}
    elif kind == "yarn":
        made = {"type": "yarn", "factor": factor}
        if attention is not None:
            # llama.cpp multiplies what the file says by YaRN's own temperature.
            made["attention_factor"] = attention * temperature(factor)
    elif single or long:
        # A tensor of factors alone does not say from which window it stretches.
        window = original or config["max_position_embeddings"]
        made = {
            "type": "longrope",
            "long_factor": long or single,
            "short_factor": short or long or single,
            "factor": config["max_position_embeddings"] / window,
            "attention_factor": 1.0 if attention is None else attention,
        }
        original = window
    elif kind == "none":
        return None
    else:
        raise RopewalkError(
            f"{found.path} says the scaling {one_line(kind, 40)!r}, which is not known here", hint=_OTHERWISE
        )
    made["rope_type"] = made["type"]
    return made | ({"original_max_position_embeddings": original} if original else {})


def _values(found: GgufFile, name: str) -> list[float] | None:
    """The numbers of a float32 tensor, or None where there is none."""
    tensor = next((tensor for tensor in found.tensors if tensor.name == name), None)
    if tensor is None:
        return None
    if tensor.kind != F32:
        raise DamagedError(f"{found.path}: {name} is not float32", hint="fetch or convert the file again")
    with open(found.path, "rb") as stream:
        stream.seek(found.data_start + tensor.offset)
        return [float(value) for value in np.frombuffer(stream.read(tensor.size), dtype="<f4")]


def _stored(found: GgufFile) -> dict[str, Any]:
    """The type of the matrices: one float type, or the bits an element that the file's mixture comes to."""
    matrices = [tensor for tensor in found.tensors if len(tensor.dims) > 1]
    kinds = {tensor.kind for tensor in matrices}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in _FULL_WIDTH:
        return {"dtype": _FULL_WIDTH[kind]}
    # Python's integers: dimensions of a hostile file multiply beyond 64 bits.
    count = sum(int(np.prod(tensor.dims, dtype=object)) for tensor in matrices)
    if not count:
        return {}
    bits = 8 * sum(tensor.size for tensor in matrices) / count
    return {"quantization_config": {"quant_method": "gguf", "bits": round(bits, 3)}}
