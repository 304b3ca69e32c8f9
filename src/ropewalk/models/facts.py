"""`ModelFacts`: everything that config.json says about a model's shape, its window and its rotary embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.geometry import RopeGeometry
from ropewalk.models.config import read_config
from ropewalk.models.source import config_path, resolve
from ropewalk.models.structure.layers import LayerFacts, is_sliding, layers_of
from ropewalk.models.structure.record import Recorded, recorded
from ropewalk.models.structure.ropes import DEFAULT, rope_entries
from ropewalk.models.structure.scaling import KEEPS_ORIGINAL, current_schedule, factor_of, softmax_scale
from ropewalk.models.structure.table import quirk
from ropewalk.models.structure.values import is_whole, naming, number, optional_whole, shown, whole
from ropewalk.models.structure.view import TextView, require_rope, view_of
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class RopeFacts:
    """One rotary entry: the geometry it was trained with, and what the file does to it now.

    `geometry` is the ORIGINAL one. `schedule` is the scaling that the file asks for (the identity when it asks for
    none), or None with the `problem` in words. `softmax_scale` is what MLA models multiply the logits with besides.
    """

    layer_type: str
    geometry: RopeGeometry
    rope_type: str
    factor: float
    parameters: Mapping[str, Any]
    schedule: FrequencySchedule | None
    problem: str | None
    softmax_scale: float = 1.0

    @property
    def is_scaled(self) -> bool:
        """Whether the file changes the frequencies or the temperature at all."""
        return self.schedule is None or not self.schedule.is_identity

    def to_json(self) -> dict[str, Any]:
        """For `inspect --json`."""
        return {
            "geometry": self.geometry.to_json(),
            "rope_type": self.rope_type,
            "factor": self.factor,
            "attention_factor": None if self.schedule is None else self.schedule.attention_factor,
            "softmax_scale": self.softmax_scale,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class ModelFacts:
    """A model's shape as far as config.json tells; see `read_facts`."""

    model_type: str
    text_type: str
    architectures: tuple[str, ...]
    text_path: tuple[str, ...]
    num_layers: int
    hidden_size: int
    intermediate_size: int | None
    vocab_size: int | None
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    tie_embeddings: bool
    dtype: str | None
    max_position_embeddings: int
    layers: LayerFacts
    ropes: Mapping[str, RopeFacts]
    mla: Mapping[str, int | None] | None
    experts: Mapping[str, int | None] | None
    known: bool
    auto_map: bool
    config: Mapping[str, Any] = field(repr=False)

    @property
    def main(self) -> str:
        """The label of the rotary entry that a longer window concerns."""
        for label in (DEFAULT, "full_attention", "indexed_attention", "compress", "hybrid"):
            if label in self.ropes:
                return label
        return next((label for label in self.ropes if not is_sliding(label)), next(iter(self.ropes)))

    @property
    def rope(self) -> RopeFacts:
        """The rotary entry of the layers that see the whole context."""
        return self.ropes[self.main]

    @property
    def geometry(self) -> RopeGeometry:
        """The original geometry of that entry."""
        return self.rope.geometry

    @property
    def original_length(self) -> int:
        """Tokens of the window that the model was trained in, before any stretch."""
        return self.rope.geometry.original_length

    @property
    def text(self) -> Mapping[str, Any]:
        """The part of the configuration that describes the text model."""
        return view_of(self.config).text

    @property
    def layer_types(self) -> tuple[str, ...]:
        """One layer type for each layer."""
        return self.layers.layer_types

    @property
    def sliding_window(self) -> int | None:
        """Tokens that sliding layers see, or None when no layer slides."""
        return self.layers.sliding_window

    def to_json(self) -> dict[str, Any]:
        """The shape, for `inspect --json`."""
        names = (
            "model_type", "text_type", "num_layers", "hidden_size", "intermediate_size", "vocab_size",
            "num_attention_heads", "num_kv_heads", "head_dim", "value_dim", "tie_embeddings", "dtype",
            "max_position_embeddings", "original_length",
        )  # fmt: skip
        document = {name: getattr(self, name) for name in names}
        return document | {
            "architectures": list(self.architectures),
            "mla": None if self.mla is None else dict(self.mla),
            "experts": None if self.experts is None else dict(self.experts),
        }


def read_facts(source: str | Path | Mapping[str, Any]) -> ModelFacts:
    """Read a folder, a config.json, `hemp`, a Hub id or an already loaded configuration, without transformers.

    Values that the file leaves to its class come from the table of class defaults. Raises RopewalkError for a model
    without rotary embeddings and for values that no reader could use.
    """
    if isinstance(source, Mapping):
        return _facts(source)
    path = config_path(resolve(source))
    with naming(str(path)):
        return _facts(read_config(path))


def _facts(config: Mapping[str, Any]) -> ModelFacts:
    view = view_of(config)
    require_rope(view)
    layers = layers_of(view)
    if not layers.rope:
        raise RopewalkError(
            f"model_type={shown(view.model_type)}: none of its {len(layers.layer_types)} layers rotates",
            hint="there are no rotary embeddings to stretch",
        )
    entries = rope_entries(view)
    ropes = {
        label: _rope(view, layers, label, entry) for label, entry in entries.items() if entry is not None
    }
    heads = view.whole("num_attention_heads")
    return ModelFacts(
        model_type=str(config.get("model_type") or ""),
        text_type=view.model_type,
        architectures=_names(config.get("architectures")),
        text_path=view.path,
        num_layers=len(layers.layer_types),
        hidden_size=view.whole("hidden_size"),
        intermediate_size=optional_whole(view.get("intermediate_size")),
        vocab_size=optional_whole(view.get("vocab_size")),
        num_attention_heads=heads,
        num_kv_heads=_kv_heads(view, heads),
        head_dim=_attention_dim(view),
        value_dim=optional_whole(view.get("v_head_dim")) or _attention_dim(view),
        tie_embeddings=bool(config.get("tie_word_embeddings", view.get("tie_word_embeddings"))),
        dtype=_dtype(config, view),
        max_position_embeddings=view.max_length,
        layers=layers,
        ropes=ropes,
        mla=_mla(view),
        experts=_experts(view),
        known=view.row is not None,
        auto_map=bool(config.get("auto_map")),
        config=config,
    )


def read_geometry(source: str | Path | Mapping[str, Any]) -> RopeGeometry:
    """The original rotary geometry of a model: of its full-attention layers, before any scaling in the file."""
    return read_facts(source).geometry


def _rope(view: TextView, layers: LayerFacts, label: str, entry: dict[str, Any]) -> RopeFacts:
    record = recorded(view.config, label, entry, view.max_length)
    geometry = _geometry(view, layers, label, entry)
    # The note of another model: heads of another width were never stretched from it.
    if record is not None and record.geometry.head_dim != geometry.head_dim:
        record = None
    if record is not None:
        geometry = record.geometry
    if (
        record
        and entry["rope_type"] in (DEFAULT, "proportional")
        and geometry.rope_theta != entry["rope_theta"]
    ):
        scaled: FrequencySchedule | None = _changed_base(record, float(entry["rope_theta"]))
        problem: str | None = None
    else:
        scaled, problem = current_schedule(entry, geometry, view.max_length)
        # The file knows stock types only; the note remembers the method that one of them carries.
        if scaled is not None and record is not None and scaled.factor == record.factor:
            scaled = replace(scaled, method=record.method or scaled.method, parameters=record.parameters)
    factor = scaled.factor if scaled else _factor_or_one(entry, geometry.original_length, view.max_length)
    scale = softmax_scale(entry, factor, scaled=bool((view.row or {}).get("softmax_mscale")))
    return RopeFacts(label, geometry, entry["rope_type"], factor, entry, scaled, problem, scale)


def _geometry(view: TextView, layers: LayerFacts, label: str, entry: Mapping[str, Any]) -> RopeGeometry:
    try:
        return RopeGeometry(
            head_dim=_rotary_head(view, layers, label),
            rope_theta=entry["rope_theta"],
            original_length=_original_length(view, label, entry),
            partial_rotary_factor=_share(view, entry),
            proportional=entry["rope_type"] == "proportional",
        )
    except UsageError as error:
        # The value stands in a file: nothing on the command line is wrong.
        raise RopewalkError(f"config.json: {error.message}", hint=error.hint) from error


def _changed_base(record: Recorded, rope_theta: float) -> FrequencySchedule:
    """A stretch by a changed base, which only the note tells apart from a model trained on that base."""
    return FrequencySchedule(
        method=record.method or "ntk",
        geometry=record.geometry,
        factor=record.factor,
        parameters=record.parameters,
        inv_freq=record.geometry.with_theta(rope_theta).inv_freq,
        native={"type": "theta", "rope_theta": rope_theta},
    )


def _factor_or_one(entry: Mapping[str, Any], original_length: int, max_length: int) -> float:
    try:
        return factor_of(entry, original_length, max_length)
    except RopewalkError:
        return 1.0


def _share(view: TextView, entry: Mapping[str, Any]) -> float:
    share = entry.get("partial_rotary_factor")
    if share is None:
        return 1.0
    reads = view.row is None or bool(view.row.get("partial") or view.row.get("table"))
    # A plain entry of a model that rotates whole heads never looks at the share; its scaled types do, and break.
    return float(share) if reads or entry["rope_type"] != DEFAULT or view.row is None else 1.0


def _rotary_head(view: TextView, layers: LayerFacts, label: str) -> int:
    """The head that an entry rotates; some types have another width in their full-attention or sliding layers."""
    by_layer = view.text.get("per_layer_config")
    index = next((i for i, kind in enumerate(layers.layer_types) if kind == label), None)
    # JSON has made text of the indices; a configuration in memory has numbers.
    own = by_layer.get(str(index), by_layer.get(index)) if isinstance(by_layer, Mapping) else None
    if isinstance(own, Mapping) and own.get("head_dim") is not None:
        return whole(f"per_layer_config.{index}.head_dim", own["head_dim"], least=2)
    wide = quirk(view.model_type, "global_head_dim")
    if wide is not None and not is_sliding(label) and not by_layer:
        value = view.text.get("global_head_dim")
        return whole("global_head_dim", wide if value is None else value, least=2)
    key = quirk(view.model_type, "sliding_head_key")
    if key is not None and is_sliding(label):
        value = view.get(key)
        return view.head_dim if value is None else whole(key, value, least=2)
    return view.head_dim


def _original_length(view: TextView, label: str, entry: Mapping[str, Any]) -> int:
    """The window before the stretch: the entry's own, or max_position_embeddings where nothing says that it grew."""
    kind = entry["rope_type"]
    # Phi-3's place for it, which wins over the one inside the entry.
    at_root = view.text.get("original_max_position_embeddings") if label == DEFAULT else None
    if kind in KEEPS_ORIGINAL:
        value = entry.get("original_max_position_embeddings") if at_root is None else at_root
        return view.max_length if value is None else whole("original_max_position_embeddings", value)
    chunks = view.text.get("dual_chunk_attention_config")
    if isinstance(chunks, Mapping) and is_whole(chunks.get("original_max_position_embeddings")):
        # The declared window is that of dual chunk attention; this one was trained.
        return whole("original_max_position_embeddings", chunks["original_max_position_embeddings"])
    stated = entry.get("original_max_position_embeddings")
    if kind == "linear":
        if is_whole(stated):
            return whole("original_max_position_embeddings", stated)
        if quirk(view.model_type, "linear_raises_window"):
            # These raise max_position_embeddings with the factor; the others leave it, as the format once asked for.
            return max(1, round(view.max_length / max(number("factor", entry.get("factor", 1.0)), 1.0)))
    return view.max_length


def _attention_dim(view: TextView) -> int:
    """Width of a query head in attention itself, for memory: MLA's is the rotary and the plain part together."""
    plain = optional_whole(view.get("qk_nope_head_dim"))
    return view.head_dim if plain is None or view.get("kv_lora_rank") is None else view.head_dim + plain


def _kv_heads(view: TextView, heads: int) -> int:
    # Falcon's class goes by multi_query, whatever number its config.json gives besides.
    if (
        quirk(view.model_type, "multi_query")
        and view.text.get("multi_query", True)
        and not view.text.get("new_decoder_architecture")
    ):
        return 1
    attention = view.text.get("attn_config")
    inner = attention.get("kv_n_heads") if isinstance(attention, Mapping) else None
    return optional_whole(view.get("num_key_value_heads")) or optional_whole(inner) or heads


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()


def _dtype(config: Mapping[str, Any], view: TextView) -> str | None:
    for place in (view.text, config):
        # Newer files say the first, and where both stand it is the one that is kept up.
        for key in ("dtype", "torch_dtype"):
            if isinstance(place.get(key), str):
                return str(place[key]).removeprefix("torch.")
    return None


def _mla(view: TextView) -> dict[str, int | None] | None:
    if (
        optional_whole(view.get("kv_lora_rank")) is None
        or optional_whole(view.get("qk_rope_head_dim")) is None
    ):
        return None
    names = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    return {name: optional_whole(view.get(name)) for name in names}


def _experts(view: TextView) -> dict[str, int | None] | None:
    count = next(
        (
            number
            for name in ("num_experts", "num_local_experts", "n_routed_experts")
            if (number := optional_whole(view.get(name))) is not None
        ),
        None,
    )
    # One expert is a feed-forward like any other.
    if count is None or count < 2:
        return None
    names = ("num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace")
    return {"num_experts": count} | {name: optional_whole(view.get(name)) for name in names}
