"""Faults of type and place that keep a configuration from being read at all: named, and mended in a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.defects.finding import Finding
from ropewalk.models.structure.table import quirk
from ropewalk.models.structure.values import exact, is_number, is_whole, shown
from ropewalk.models.structure.view import TextView, view_of

REPAIR = "`ropewalk extend MODEL --repair -o OUT` writes it right"
_WHOLE = (
    "max_position_embeddings", "original_max_position_embeddings", "hidden_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "n_positions", "n_embd", "n_head",
    "n_layer", "qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim",
)  # fmt: skip
_REAL = (
    "rope_theta", "rope_local_base_freq", "global_rope_theta", "local_rope_theta", "rotary_emb_base", "rotary_pct",
    "partial_rotary_factor",
)  # fmt: skip
_ENTRY_REAL = (
    "rope_theta", "factor", "attention_factor", "attn_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "low_freq_factor", "high_freq_factor", "partial_rotary_factor", "short_mscale", "long_mscale",
)  # fmt: skip
_ENTRY_FLAGS = ("truncate", "mrope_interleaved")
_ROPE_KEYS = ("rope_parameters", "rope_scaling")


def tidy(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """A copy in which numbers are numbers and rotary keys stand where they are read, and what had to be done."""
    fresh = copy.deepcopy(dict(config))
    found: list[Finding] = []
    try:
        view = view_of(fresh)
    except RopewalkError:
        return fresh, found
    # First, so that what was in the wrong place is looked at in the right one.
    found += _moved(fresh, view)
    view = view_of(fresh)
    text = view.text
    assert isinstance(text, dict)
    found += _numbers(text, _WHOLE, whole=True)
    found += _numbers(text, _REAL, whole=False)
    for key in _ROPE_KEYS:
        for where, entry in entries_in(key, text.get(key)):
            found += _numbers(entry, ("original_max_position_embeddings",), whole=True, where=where)
            found += _numbers(entry, _ENTRY_REAL, whole=False, where=where)
            found += _flags(entry, where)
    return fresh, found


def entries_in(key: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rotary dictionaries inside a value: the flat one, or each nested one, with its name in the file."""
    if not isinstance(value, dict):
        return
    yield key, value
    for label, entry in value.items():
        if isinstance(entry, dict):
            yield f"{key}.{label}", entry


def _numbers(
    place: dict[str, Any], names: tuple[str, ...], *, whole: bool, where: str = ""
) -> Iterator[Finding]:
    for name in names:
        value = place.get(name)
        label = f"{where}.{name}" if where else name
        if isinstance(value, str):
            number = _parsed(value)
            if number is not None and (not whole or is_whole(number)):
                place[name] = int(number) if whole else number
                yield Finding(
                    "number-as-text",
                    "error",
                    f"{label}={shown(value)} is text where a number belongs: stock code fails when it computes "
                    "with it",
                    f"write {label} without quotes, {exact(place[name])}; {REPAIR}",
                    repairable=True,
                )
        elif whole and isinstance(value, float) and is_whole(value):
            place[name] = int(value)
            yield Finding(
                "length-not-integer",
                "error",
                f"{label}={value!r} is written as a float: transformers 5 refuses to load such a configuration",
                f"write {int(value)}; {REPAIR}",
                repairable=True,
            )


def _flags(entry: dict[str, Any], where: str) -> Iterator[Finding]:
    """A flag in quotes counts as true whatever it says."""
    for name in _ENTRY_FLAGS:
        value = entry.get(name)
        if not isinstance(value, str) or value.strip().lower() not in ("true", "false"):
            continue
        entry[name] = value.strip().lower() == "true"
        yield Finding(
            "flag-as-text",
            "error",
            f"{where}.{name}={shown(value)} is text where true or false belongs: stock code takes any text for true",
            f"write {name} without quotes, {str(entry[name]).lower()}; {REPAIR}",
            repairable=True,
        )


def _parsed(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if is_number(number) else None


def _moved(config: dict[str, Any], view: TextView) -> Iterator[Finding]:
    """Rotary dictionaries at the root of a composite, where its text model does not look for them."""
    if not view.path or quirk(str(config.get("model_type")), "root_counts"):
        return
    here: Any = config
    for key in view.path:
        here = here.get(key)
        if not isinstance(here, dict):
            return
    for name in _ROPE_KEYS:
        value = config.get(name)
        # The text model's own entry is the one that is read: nothing has to be moved over it.
        if not isinstance(value, dict) or not value or name in here:
            continue
        here[name] = config.pop(name)
        yield Finding(
            "scaling-outside-text-config",
            "error",
            f"{name} stands at the root of a composite (model_type={shown(config.get('model_type'))}); its "
            f"text model reads {'.'.join(view.path)}.{name}, so the scaling is ignored",
            f"move it into {'.'.join(view.path)}; {REPAIR}",
            repairable=True,
        )
