"""Seeded ways to spoil a configuration: types, keys, nesting, bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.0, 1e-320, 1e300, 10**30, 10**400, -(10**25), 4096.0, 4096.5,
    "", "4096", "yarn", "ntk", "linear", "longrope", "dynamic", "default",
    "\x1b[2J\x1b]0;x\x07", "\u202eabc", "é" * 500,
    [], [1], ["a", None], [[]], {}, {"a": 1}, {"rope_type": "yarn"}, {"rope_type": ["x"], "factor": {}},
    {"rope_type": "longrope", "long_factor": [1.0], "short_factor": "no"},
    {"full_attention": None, "sliding_attention": None}, {"full_attention": {"rope_type": "llama3", "factor": 2}},
    {"__float__": "Infinity"}, {"type": "su", "factor": 4.0},
]  # fmt: skip
KEYS = [
    "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings", "head_dim", "hidden_size", "model_type",
    "num_attention_heads", "num_hidden_layers", "layer_types", "sliding_window", "partial_rotary_factor",
    "text_config",
    "original_max_position_embeddings", "rotary_dim", "no_rope_layers", "qk_rope_head_dim", "kv_lora_rank", "ropewalk",
    "per_layer_config", "attn_config", "rope_local_base_freq", "auto_map", "architectures", "tie_word_embeddings",
    "factor", "rope_type", "type", "attention_factor", "beta_fast", "long_factor", "short_factor", "mscale_all_dim",
    "attn_layer_indices", "layer_rope_theta", "sliding_window_pattern", "no_rope_layer_interval", "dtype",
    "num_experts",
]  # fmt: skip


def mutated(config: dict[str, Any], random_: random.Random, model_types: list[str]) -> bytes:
    """One spoilt configuration as bytes, sometimes not JSON at all."""
    spoilt = copy.deepcopy(config)
    for _ in range(random_.randint(1, 5)):
        place = _somewhere(spoilt, random_)
        _change(place, random_, model_types)
    content = json.dumps(spoilt, ensure_ascii=random_.random() < 0.5).encode("utf-8", "surrogatepass")
    return _bytes(content, random_) if random_.random() < 0.25 else content


def _somewhere(config: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    here = config
    while random_.random() < 0.5:
        inner = [value for value in here.values() if isinstance(value, dict)]
        if not inner:
            break
        here = random_.choice(inner)
    return here


def _change(place: dict[str, Any], random_: random.Random, model_types: list[str]) -> None:
    kind = random_.random()
    keys = list(place)
    if kind < 0.35:
        place[random_.choice(KEYS)] = copy.deepcopy(random_.choice(STRANGE))
    elif kind < 0.65 and keys:
        place[random_.choice(keys)] = copy.deepcopy(random_.choice(STRANGE))
    elif kind < 0.75 and keys:
        place.pop(random_.choice(keys))
    elif kind < 0.85:
        place["model_type"] = random_.choice(model_types)
    elif kind < 0.93 and keys:
        moved = place.pop(random_.choice(keys))
        place[random_.choice(KEYS)] = moved
    else:
        deep: Any = random_.choice(STRANGE)
        for _ in range(random_.choice([3, 30, 80, 3000])):
            deep = [deep] if random_.random() < 0.5 else {"rope_parameters": deep}
            if random_.random() < 0.001:
                break
        place[random_.choice(KEYS)] = deep if _depth_is_safe(deep) else "deep"


def _depth_is_safe(value: Any, limit: int = 400) -> bool:
    depth = 0
    while isinstance(value, list | dict) and value:
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
        depth += 1
    return depth < limit


def _bytes(content: bytes, random_: random.Random) -> bytes:
    spoilt = bytearray(content)
    kind = random_.random()
    if kind < 0.4:
        for _ in range(random_.randint(1, 4)):
            spoilt[random_.randrange(len(spoilt))] = random_.randrange(256)
    elif kind < 0.6:
        del spoilt[random_.randrange(len(spoilt)) :]
    elif kind < 0.8:
        number = random_.choice(
            [b"1e400", b"-1e400", b"NaN", b"-Infinity", b"9" * 5000, b"1E+999999", b'"\\ud800"']
        )
        spoilt = bytearray(bytes(spoilt).replace(b"10000", number, 1))
    else:
        at = random_.randrange(len(spoilt))
        spoilt[at:at] = random_.choice(
            [b"[" * 100000, b"{", b"\x00", b"\xff\xfe", b'"rope_theta": 1, "rope_theta": 2,']
        )
    return bytes(spoilt)
