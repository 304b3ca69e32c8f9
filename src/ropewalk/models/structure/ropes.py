"""The rotary entries of a configuration as transformers reads them, in every dialect, one per layer type.

Dialects: `rope_parameters` (transformers 5, flat or nested by layer type), `rope_theta` with `rope_scaling` (older),
`rotary_emb_base` and `rotary_pct` (GPT-NeoX), `rope_local_base_freq` (Gemma 3), `global_rope_theta` and
`local_rope_theta` (ModernBERT), `rotary_dim`, `attn_config` (DBRX), `compress_rope_theta` (DeepSeek V4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.structure.table import quirk
from ropewalk.models.structure.values import is_number, number, shown
from ropewalk.models.structure.view import TextView

DEFAULT = "default"
STOCK_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
_LAYER_WORDS = ("attention", "hybrid", "main", "compress")
_LEGACY_KEYS = ("rope_parameters", "rope_scaling")


def rope_entries(view: TextView) -> dict[str, dict[str, Any] | None]:
    """Every rotary entry by label: `default` for a flat configuration, else the layer types (None: never rotated)."""
    given = {key: _optional_mapping(key, view.text.get(key)) for key in _LEGACY_KEYS}
    default = (view.row or {}).get("rope_parameters")
    if (view.row or {}).get("table"):
        return {DEFAULT: _table_entry(view)}
    if is_nested_type(view) or (view.row is None and nested_labels(view, given["rope_parameters"])):
        return _nested_entries(view, given, default or {})
    # These classes never read the older key.
    legacy = None if (view.row or {}).get("new_only") else given["rope_scaling"]
    # An empty dictionary counts as absent, as it does in transformers.
    raw = (
        legacy
        or _flattened(view, given["rope_parameters"])
        or (default if default and entry_type(default) != DEFAULT else None)
        or {}
    )
    return {DEFAULT: _completed(view, dict(raw), default or {}, theta_names=("rope_theta",))}


def silent_entries(view: TextView) -> dict[str, None]:
    """The layer types that never rotate: stock code looks for their names too, and dies where one is missing."""
    return {label: None for label, entry in rope_entries(view).items() if entry is None}


def is_nested_type(view: TextView) -> bool:
    """Whether the class of this model keeps one entry for each layer type."""
    default = (view.row or {}).get("rope_parameters")
    if quirk(view.model_type, "nested"):
        return True
    return isinstance(default, Mapping) and any(isinstance(value, Mapping) for value in default.values())


def entry_type(entry: Mapping[str, Any]) -> str:
    """`rope_type`, or the older `type`; anything but a name is an error."""
    value = entry.get("rope_type", entry.get("type", DEFAULT))
    if value is None:
        return DEFAULT
    if not isinstance(value, str):
        raise RopewalkError(
            f"config.json: rope_type={shown(value)} is not a name",
            hint=f"use one of {', '.join(STOCK_TYPES)}",
        )
    return value


def _optional_mapping(name: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RopewalkError(
            f"config.json: {name}={shown(value)} is not a mapping",
            hint=f'{name} holds named values, for example {{"rope_type": "linear", "factor": 2.0}}, or null',
        )
    return dict(value)


def _flattened(view: TextView, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """The one entry that a class without layer types can mean by a nested dictionary."""
    labels = nested_labels(view, parameters)
    if not parameters or not labels:
        return parameters
    entries = [
        parameters[label] for label in ("full_attention", *labels) if isinstance(parameters.get(label), dict)
    ]
    return dict(entries[0]) if entries else None


def nested_labels(view: TextView, parameters: Mapping[str, Any] | None) -> list[str]:
    """The keys of a rotary dictionary that name layer types."""
    if not parameters:
        return []
    labels = set((view.row or {}).get("labels") or ()) | set((view.row or {}).get("layer_types") or ())
    types = view.text.get("layer_types")
    labels |= {kind for kind in types if isinstance(kind, str)} if isinstance(types, list) else set()
    return [
        key
        for key, value in parameters.items()
        if (isinstance(value, Mapping) or value is None)
        and (key in labels or (not is_nested_type(view) and any(word in key for word in _LAYER_WORDS)))
    ]


def _nested_entries(
    view: TextView, given: Mapping[str, dict[str, Any] | None], default: Mapping[str, Any]
) -> dict[str, dict[str, Any] | None]:
    parameters, legacy = given["rope_parameters"], given["rope_scaling"]
    labels = nested_labels(view, parameters)
    if quirk(view.model_type, "compressed_ropes") and not labels:
        return _compressed(view, parameters or legacy or {}, default)
    flat = legacy or parameters
    handling = quirk(view.model_type, "flat_dictionary")
    if handling == "copied" and flat and not labels:
        parameters, labels = {label: dict(flat) for label in default}, list(default)
    found: dict[str, dict[str, Any] | None] = {}
    for label in [*default, *[label for label in labels if label not in default]]:
        entry = parameters.get(label) if parameters and label in labels else default.get(label)
        # A nested dictionary in the file replaces the class's whole: what it leaves out is not there.
        if parameters and labels and label not in labels and handling != "ignored":
            continue
        if entry is None and handling != "ignored":
            found[label] = None
            continue
        merged = dict(entry or {})
        if label not in labels and handling == "ignored":
            # These classes fill an entry that the file leaves out from its old keys, before their own default.
            merged.pop("rope_theta", None)
        if (
            legacy
            and handling == "ignored"
            and (label != "sliding_attention" or quirk(view.model_type, "legacy_scales_sliding"))
        ):
            merged |= legacy
        own = default.get(label)
        own = dict(own) if isinstance(own, Mapping) else {}
        if label in labels and not quirk(view.model_type, "keeps_class_share"):
            # A share that the file's own entry leaves out is 1, not the class's.
            own.pop("partial_rotary_factor", None)
        found[label] = _completed(view, merged, own, theta_names=_theta_names(view, label))
    if not any(entry is not None for entry in found.values()):
        raise RopewalkError(
            f"config.json: rope_parameters of model_type={shown(view.model_type)} names no layer type that rotates",
            hint=f"nest it by layer type: {', '.join(map(shown, default or view.text.get('layer_types') or ()))}"[
                :200
            ],
        )
    return found


def _theta_names(view: TextView, label: str) -> tuple[str, ...]:
    """The key beside the dictionary that holds a layer type's base; some classes have one a type, or none."""
    names = quirk(view.model_type, "base_names") or {}
    kind = "sliding_attention" if "sliding" in label else label
    name = names.get(kind, names.get("*", "rope_theta"))
    return () if name is None else (name,)


def _compressed(
    view: TextView, scaling: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Only compressed layers are scaled, on a base of their own, and without YaRN's attention factor."""
    main = _completed(view, {}, default["main"], theta_names=("rope_theta",))
    compress = dict(scaling) | {
        "rope_theta": view.text.get("compress_rope_theta", default["compress"]["rope_theta"])
    }
    if entry_type(compress) == "yarn":
        compress.setdefault("attention_factor", 1.0)
    return {"main": main, "compress": _completed(view, compress, default["compress"], theta_names=())}


def _completed(
    view: TextView,
    entry: dict[str, Any],
    default: Mapping[str, Any],
    *,
    theta_names: tuple[str, ...],
) -> dict[str, Any]:
    """An entry with its type, its base and its share filled in, as transformers standardises it."""
    kind = entry_type(entry)
    if kind == "mrope":
        kind = DEFAULT
    kind = (quirk(view.model_type, "renames") or {}).get(kind, kind)
    entry["rope_type"] = kind
    entry["rope_theta"] = _theta(view, entry, default, theta_names)
    if kind == "dynamic" and quirk(view.model_type, "fixed_alpha") and entry.get("alpha"):
        # Hunyuan calls `dynamic` what its class computes once, a base raised by `alpha`: trained so, and plain since.
        alpha, head = number("alpha", entry["alpha"]), view.head_dim
        if alpha <= 0 or head <= 2:
            raise RopewalkError(
                f"config.json: alpha={shown(entry['alpha'])} raises no base", hint="give alpha above 0"
            )
        raised = float(entry["rope_theta"] * alpha ** (head / (head - 2)))
        entry = {"rope_type": DEFAULT, "rope_theta": raised}
    share = _share(view, entry, default)
    if share is not None:
        entry["partial_rotary_factor"] = share
    return entry


def _theta(
    view: TextView, entry: Mapping[str, Any], default: Mapping[str, Any], names: tuple[str, ...]
) -> float:
    # From here on in the order in which stock code lets them win.
    candidates: list[tuple[str, Any]] = [("layer_rope_theta", _by_layer(view))]
    candidates.append(("rope_theta", entry.get("rope_theta")))
    candidates += [(name, view.given(name)) for name in names]
    attention = view.text.get("attn_config")
    if isinstance(attention, Mapping):
        candidates.append(("attn_config.rope_theta", attention.get("rope_theta")))
    for name, value in candidates:
        if value is not None:
            return number(name, value)
    own: Any = default.get("rope_theta")
    if own is None:
        own = (view.row or {}).get("theta")
    # Neither file nor class says anything: transformers' own default.
    return float(own) if is_number(own) else 10000.0


def _by_layer(view: TextView) -> Any:
    """Granite's sliding variants: a base for each layer (0 never rotates), which overrides the dictionary's."""
    bases = view.text.get("layer_rope_theta")
    if not quirk(view.model_type, "layer_bases") or not isinstance(bases, list):
        return None
    types = view.text.get("layer_types")
    full = [
        base
        for i, base in enumerate(bases)
        if not isinstance(types, list) or i >= len(types) or types[i] == "full_attention"
    ]
    return next((base for base in [*full, *bases] if base), None)


def _share(view: TextView, entry: Mapping[str, Any], default: Mapping[str, Any]) -> float | None:
    """partial_rotary_factor, also from rotary_dim; None where this model never reads it."""
    value = entry.get("partial_rotary_factor")
    if value is None:
        value = view.given("partial_rotary_factor")
    rotary_dim = view.get("rotary_dim")
    if (
        value is None
        and rotary_dim is not None
        and (quirk(view.model_type, "rotary_dim") or view.row is None)
    ):
        value = number("rotary_dim", rotary_dim) / view.head_dim
    if value is None:
        value = default.get("partial_rotary_factor")
    if value is None:
        return None
    return number("partial_rotary_factor", value)


def _table_entry(view: TextView) -> dict[str, Any]:
    """GPT-J, CodeGen, RoFormer: a table on base 10000 that no configuration changes."""
    entry: dict[str, Any] = {"rope_type": DEFAULT, "rope_theta": 10000.0}
    rotary_dim = view.get("rotary_dim")
    if rotary_dim is not None:
        entry["partial_rotary_factor"] = number("rotary_dim", rotary_dim) / view.head_dim
    return entry
