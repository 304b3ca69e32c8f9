"""The text model inside a configuration: which part describes it, and each value with its class's default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.structure.table import quirk, row_of, transformers_version
from ropewalk.models.structure.values import shown, whole

TEXT_KEYS = ("text_config", "language_config", "llm_config", "thinker_config", "decoder")
# Spellings of older and remote-code configurations, tried after the standard one and the class's own alias.
_SPELLINGS = {
    "hidden_size": ("n_embd", "d_model", "dim", "n_embed"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx"),
    "intermediate_size": ("ffn_hidden_size", "n_inner", "ffn_dim"),
    "head_dim": ("kv_channels", "attention_head_dim"),
    "layer_types": ("layers_block_type",),
    "rope_theta": ("rotary_emb_base", "rope_base", "rotary_base", "rope_freq_base"),
    "partial_rotary_factor": ("rotary_pct", "rope_pct", "rotary_emb_fraction", "rope_ratio_dims"),
}
BASE_SPELLINGS = ("rope_theta", *_SPELLINGS["rope_theta"])


@dataclass(frozen=True)
class TextView:
    """The mapping that describes the text model (`text`), where it sits in the file (`path`) and its class's row."""

    config: Mapping[str, Any]
    text: Mapping[str, Any]
    path: tuple[str, ...]
    model_type: str
    row: Mapping[str, Any] | None

    def given(self, name: str) -> Any:
        """The file's own value under the standard name, the class's alias or an older spelling; None when absent."""
        for spelling in self._spellings(name):
            if self.text.get(spelling) is not None:
                return self.text[spelling]
        return None

    def get(self, name: str) -> Any:
        """The file's value, or the class's default, or None. An explicit null in the file overrides the default."""
        value = self.given(name)
        if value is not None or any(spelling in self.text for spelling in self._spellings(name)):
            return value
        return (self.row or {}).get("defaults", {}).get(name)

    def _spellings(self, name: str) -> tuple[str, ...]:
        alias = (self.row or {}).get("aliases", {}).get(name)
        return (name, *((alias,) if alias else ()), *_SPELLINGS.get(name, ()))

    def whole(self, name: str, *, least: int = 1) -> int:
        """A required whole number; its absence is an error that names the field and the model type."""
        value = self.get(name)
        if value is None:
            known = (
                "" if self.row else f", and model_type={shown(self.model_type)} has no defaults known here"
            )
            raise RopewalkError(f"config.json: {name} is missing{known}", hint=f"add {name} to config.json")
        return whole(name, value, least=least)

    @property
    def max_length(self) -> int:
        """max_position_embeddings as written, the stretched value of a scaled model."""
        trained = quirk(self.model_type, "trained_length")
        if trained is not None and self.get("max_position_embeddings") is None:
            return int(trained)
        return self.whole("max_position_embeddings")

    @property
    def head_dim(self) -> int:
        """Width of the head that the rotary module sees: for MLA the decoupled rotary part."""
        rule = (self.row or {}).get("head_dim", "given")
        if rule == "rope" or (self.row is None and self.text.get("qk_rope_head_dim") is not None):
            return self.whole("qk_rope_head_dim", least=2)
        # Forced: the class computes the width and never looks at a head_dim in the file (Falcon).
        value = None if rule == "forced" else self.get("head_dim")
        if value is not None:
            return whole("head_dim", value, least=2)
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads")
        # Double: the attention runs over hidden state and embedding side by side (Zamba2).
        derived = hidden * (2 if rule == "double" else 1) // heads
        if derived < 2:
            raise RopewalkError(
                f"config.json: hidden_size={hidden} over num_attention_heads={heads} leaves no pair to rotate",
                hint="correct the two, or set head_dim",
            )
        return derived


def view_of(config: Mapping[str, Any]) -> TextView:
    """Find the text model of a configuration, through composites (`text_config` and its kin, three levels at most)."""
    if not isinstance(config, Mapping):
        raise RopewalkError(
            f"a configuration is a mapping, not {shown(config)}", hint="pass the content of config.json"
        )
    here: Mapping[str, Any] = config
    model_type = _type_name(here, "")
    path: list[str] = []
    for _ in range(3):
        row = row_of(model_type)
        key, default_type = _inner(here, row)
        if key is None:
            break
        inner = here.get(key)
        if inner is None and here.get("hidden_size") is not None:
            # Older files of some composites (Qwen2-VL, Fuyu) keep the text model's keys at the root.
            model_type = default_type or model_type
            break
        if inner is None:
            # A composite may leave its text model to the class: every value is a default then.
            inner = {}
        if not isinstance(inner, Mapping):
            raise RopewalkError(
                f"config.json: {key}={shown(inner)} is not a mapping", hint="it holds the text model"
            )
        path.append(key)
        here, model_type = inner, _type_name(inner, default_type)
    return TextView(config, here, tuple(path), model_type, row_of(model_type))


def _type_name(config: Mapping[str, Any], default: str) -> str:
    value = config.get("model_type")
    if value is None:
        return default
    if not isinstance(value, str):
        raise RopewalkError(
            f"config.json: model_type={shown(value)} is not a name", hint="write for example llama"
        )
    return value


def _inner(config: Mapping[str, Any], row: Mapping[str, Any] | None) -> tuple[str | None, str]:
    if row is not None:
        # A known class says itself where its text model is; only of unknown ones the keys are tried.
        return row.get("text"), row.get("text_type", "")
    for key in TEXT_KEYS:
        if isinstance(config.get(key), Mapping):
            return key, ""
    return None, ""


def require_rope(view: TextView) -> None:
    """An error for a model whose text decoder has no rotary embedding, with what it uses where that is known."""
    name = shown(view.model_type or "unknown")
    hint = "only models with rotary position embeddings have a window to stretch this way"
    if view.row is not None and not view.row.get("rope"):
        raise RopewalkError(f"model_type={name} has no rotary embeddings", hint=hint)
    if view.row is None and not any(key in view.text for key in _ROTARY_KEYS):
        raise RopewalkError(
            f"model_type={name} is not known to transformers {transformers_version()} and nothing in its "
            "config.json speaks of rotary embeddings",
            hint="add rope_theta if the model does rotate; " + hint,
        )
    # The switches of Falcon and Zamba2.
    for name, wrong in (("alibi", True), ("use_mem_rope", False)):
        if view.get(name) is wrong:
            raise RopewalkError(
                f"no rotary embeddings: {name}={str(wrong).lower()} turns them off", hint=hint
            )
    kind = view.get("position_embedding_type")
    if quirk(view.model_type, "rope_by_position_type") and kind != "rope":
        raise RopewalkError(f"no rotary embeddings: position_embedding_type={shown(kind)}", hint=hint)


_ROTARY_KEYS = (
    "rope_theta", "rope_scaling", "rope_parameters", "rotary_pct", "rotary_dim", "rotary_emb_base", "rope_base",
    "partial_rotary_factor", "qk_rope_head_dim", "rope_ratio", "rotary",
)  # fmt: skip
