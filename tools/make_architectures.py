"""Write models/structure/architectures.json: what config.json may leave to its class, for every model type.

`ropewalk inspect` must answer without importing transformers (which imports torch), so the defaults of the
configuration classes are collected here once, from the installed transformers:

    python tools/make_architectures.py

Run it again after an upgrade; a test compares the file with the installed version.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

OUTPUT = Path(__file__).parents[1] / "src" / "ropewalk" / "models" / "structure" / "architectures.json"
TEXT_KEYS = ("text_config", "language_config", "llm_config", "decoder", "thinker_config", "global_config")

# Types that rotate by a table of fixed length, made without looking at the configuration.
TABLES = ("gptj", "codegen", "roformer")

# What a reader of a configuration may need and a file may leave out.
FIELDS = (
    "hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "global_head_dim", "swa_head_dim", "max_position_embeddings",
    "original_max_position_embeddings", "tie_word_embeddings", "partial_rotary_factor", "rotary_dim",
    "sliding_window", "attention_chunk_size", "sliding_window_pattern", "no_rope_layer_interval",
    "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank",
    "position_embedding_type", "use_mem_rope", "alibi", "num_experts", "num_local_experts", "n_routed_experts",
    "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace",
)  # fmt: skip


def construct(cls: type, **given: Any) -> Any:
    """A configuration of a class with its own defaults; DBRX cannot be built without a nested base."""
    if cls.model_type == "dbrx":
        given.setdefault("attn_config", {"rope_theta": 10000.0, "kv_n_heads": 8, "clip_qkv": 8.0})
    return cls(**given)


def plain(value: Any) -> Any:
    """A value as JSON can hold it, or None."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return None


def read(config: Any, name: str) -> Any:
    """An attribute, or None; some classes raise errors of their own for a value that differs by layer."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def head_dim_rule(cls: type, config: Any) -> str:
    """Where head_dim comes from.

    given: the file's, else derived; null: the same, but stock code crashes on some scaled types when it is unset;
    forced: always hidden_size over heads, whatever the file says; rope: the decoupled part (MLA); double: Zamba 2.
    """
    names = {field.name: field.default for field in dataclasses.fields(cls)}
    own = config.attribute_map.get("head_dim", "head_dim")
    value, heads = read(config, "head_dim"), read(config, "num_attention_heads")
    if read(config, "qk_rope_head_dim") and value == config.qk_rope_head_dim:
        changed = construct(cls, qk_rope_head_dim=2 * config.qk_rope_head_dim)
        if read(changed, "head_dim") == 2 * config.qk_rope_head_dim:
            return "rope"
    if own in names:
        return "null" if value is None and not config.is_heterogeneous else "given"
    if value is None or not heads:
        return "given"
    if value != config.hidden_size // heads:
        return "double"
    try:
        changed = construct(cls, head_dim=2 * value)
    except Exception:
        return "forced"
    return "given" if read(changed, "head_dim") == 2 * value else "forced"


def pattern_of(config: Any) -> list[str] | None:
    """The shortest run of layer types that repeats to the class's own list, or the whole list."""
    types = read(config, "layer_types")
    if not isinstance(types, list) or not types:
        return None
    for size in range(1, len(types)):
        if all(types[i] == types[i % size] for i in range(len(types))):
            return types[:size]
    return types


def reads_share(cls: type) -> bool:
    """Whether the model's own rotary module reads partial_rotary_factor when nothing is scaled."""
    folder = Path(sys.modules[cls.__module__].__file__).parent
    return any("partial_rotary_factor" in path.read_text() for path in folder.glob("modeling_*.py"))


def softmax_scaled(cls: type) -> bool:
    """Whether attention multiplies its softmax scale by the square of an mscale (DeepSeek and its kin)."""
    folder = Path(sys.modules[cls.__module__].__file__).parent
    return any("yarn_apply_mscale(config" in path.read_text() for path in folder.glob("modeling_*.py"))


def reads_old_dialect(cls: type) -> bool:
    """Whether the class still takes its scaling from `rope_scaling`."""
    try:
        config = construct(cls, rope_scaling={"type": "linear", "rope_type": "linear", "factor": 2.0})
    except Exception:
        # Some classes refuse this very type: they do look at the key.
        return True
    rope = read(config, "rope_parameters") or {}
    return any(isinstance(e, dict) and e.get("rope_type") == "linear" for e in (rope, *rope.values()))


def entry(cls: type, config: Any, causal: bool) -> dict[str, Any]:
    """One row of the table."""
    found: dict[str, Any] = {"causal": causal}
    for key in TEXT_KEYS:
        inner = read(config, key)
        if isinstance(inner, transformers.PreTrainedConfig) and hasattr(inner, "rope_parameters"):
            return found | {"text": key, "text_type": inner.model_type}
    if not hasattr(config, "rope_parameters") and cls.model_type not in TABLES:
        return found | {"rope": False}
    aliases = {
        name: own for name, own in config.attribute_map.items() if name in FIELDS or name == "layer_types"
    }
    names = {field.name: field.default for field in dataclasses.fields(cls)}
    defaults = {}
    for name in FIELDS:
        own = aliases.get(name, name)
        stated = names.get(own, dataclasses.MISSING)
        value = plain(stated if stated is not dataclasses.MISSING else read(config, name))
        if value is not None and name != "head_dim":
            defaults[name] = value
    rule = head_dim_rule(cls, config)
    if rule == "given" and isinstance(names.get(aliases.get("head_dim", "head_dim")), int):
        defaults["head_dim"] = names[aliases.get("head_dim", "head_dim")]
    labels = list(getattr(config, "_rope_type_labels", None) or []) or None
    theta = plain(cls.default_theta)
    rope = plain(read(config, "rope_parameters"))
    found |= {"rope": True, "head_dim": rule, "theta": theta, "defaults": defaults, "rope_parameters": rope}
    found |= {"layer_types": pattern_of(config)} if pattern_of(config) else {}
    found |= {"labels": labels} if labels else {}
    found |= {"partial": True} if reads_share(cls) else {}
    found |= {"softmax_mscale": True} if softmax_scaled(cls) else {}
    found |= {} if reads_old_dialect(cls) else {"new_only": True}
    found |= {"aliases": aliases} if aliases else {}
    found |= {"table": True} if cls.model_type in TABLES else {}
    return found


def main() -> int:
    """Collect every type that has a rotary embedding, and the causal ones that have none."""
    table: dict[str, Any] = {}
    for model_type in sorted(CONFIG_MAPPING_NAMES):
        causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        try:
            cls = CONFIG_MAPPING[model_type]
            config = construct(cls)
        except Exception as error:
            print(f"left out {model_type}: {type(error).__name__} {str(error)[:100]}", file=sys.stderr)
            continue
        row = entry(cls, config, causal)
        if causal or row.get("rope") or "text" in row:
            table[model_type] = row
        if row.get("text_type") and row["text_type"] not in CONFIG_MAPPING_NAMES:
            inner = read(config, row["text"])
            table[row["text_type"]] = entry(type(inner), inner, False)
    document = {"transformers": transformers.__version__, "types": table}
    OUTPUT.write_text(json.dumps(document, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    rope = sum(bool(row.get("rope") or "text" in row) for row in table.values())
    print(f"{OUTPUT.name}: {len(table)} types, {rope} with rotary embeddings, {OUTPUT.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
