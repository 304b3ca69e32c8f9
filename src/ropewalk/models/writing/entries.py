"""One rotary entry for one schedule: the native type where stock software has an exact one, the carrier elsewhere.

The carrier is `longrope` with explicit factors theta_i/theta'_i and an explicit attention factor: every static
schedule fits into it, and stock transformers loads it without any code of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError
from ropewalk.geometry import FloatArray
from ropewalk.models.facts import ModelFacts, RopeFacts
from ropewalk.models.structure.ropes import DEFAULT, STOCK_TYPES
from ropewalk.models.structure.scaling import STOPPED_FACTOR, softmax_scale
from ropewalk.models.structure.table import quirk, row_of
from ropewalk.models.structure.values import is_number, shown
from ropewalk.schedule import FrequencySchedule

SCALING_KEYS = frozenset(
    {
        "rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor", "attn_factor",
        "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor",
        "low_freq_factor", "high_freq_factor", "short_mscale", "long_mscale", "finetuned", "rope_theta",
        "max_position_embeddings", "extrapolation_factor",
    }
)  # fmt: skip
_IN_MEMORY = "apply it in memory instead: ropewalk.apply(model, schedule)"


@dataclass(frozen=True)
class Entry:
    """A rotary entry ready to be written; `kind` is the stock type, `native` whether that type is the method's own."""

    values: dict[str, Any]
    kind: str
    native: bool
    notes: tuple[str, ...] = ()


def entry_for(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> Entry:
    """The entry that makes stock transformers compute exactly this schedule, or a refusal with the reason."""
    row = row_of(facts.text_type) or {}
    if row.get("table") and not schedule.is_identity:
        raise RopewalkError(
            f"model_type={shown(facts.text_type)} rotates by a table of fixed length on base 10000; its "
            "config.json can carry no scaling",
            hint=_IN_MEMORY,
        )
    kind = _kind(facts, rope, schedule)
    kept = {name: value for name, value in rope.parameters.items() if _is_kept(name, value)}
    build = {
        "default": _default,
        "linear": _linear,
        "proportional": _proportional,
        "yarn": _yarn,
        "llama3": _llama3,
        "longrope": _longrope,
    }[kind]
    values = build(facts, rope, schedule) | kept
    # Its factor lists have an entry for every pair of the head, the still ones among them.
    if kind == "longrope" and rope.geometry.proportional:
        values.pop("partial_rotary_factor", None)
    elif (
        values.get("partial_rotary_factor", rope.geometry.partial_rotary_factor)
        != rope.geometry.partial_rotary_factor
    ):
        # The plain type of this class never looked at the share; its scaled types would.
        values["partial_rotary_factor"] = rope.geometry.partial_rotary_factor
    if "llama_4_scaling_beta" in kept:
        # The query temperature of these models reads the window from here, whatever the type.
        values["original_max_position_embeddings"] = schedule.geometry.original_length
    native = (schedule.native or {}).get("type") in (kind, "none" if kind == "default" else "theta")
    return Entry(
        values, kind, native and schedule.native is not None, _notes(facts, rope, schedule, values, kind)
    )


def _is_kept(name: str, value: object) -> bool:
    """Keys of the model's own (mrope_section and the like) stay; stray entries of layer types do not belong here."""
    return name not in SCALING_KEYS and not isinstance(value, dict) and not name.endswith("_attention")


def _kind(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> str:
    """The stock type to write: the schedule's own unless this model's class refuses or misreads it."""
    native = str((schedule.native or {}).get("type", "longrope"))
    kind = native
    if native in ("none", "theta"):
        kind = "proportional" if rope.geometry.proportional else "default"
    if kind not in STOCK_TYPES or _misread(facts, rope, schedule, kind):
        kind = "longrope"
    if kind == "longrope" and quirk(facts.text_type, "no_carrier"):
        alone = quirk(facts.text_type, "default_only")
        able = "a changed rope_theta (ntk, abf)" + ("" if alone else " or linear")
        raise RopewalkError(
            f"model_type={shown(facts.text_type)}: its config.json holds no frequencies of one's own, and "
            f"method {shown(schedule.method)} needs them",
            hint=f"{able} can be written; or {_IN_MEMORY}",
        )
    return kind


def _misread(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule, kind: str) -> bool:
    """Where stock code would refuse the native type, or compute something else from it."""
    plain = kind in ("default", "proportional", "longrope")
    if quirk(facts.text_type, "longrope_only") and not plain:
        return True
    if quirk(facts.text_type, "default_only") and kind != "default":
        return True
    if rope.geometry.proportional and kind != "proportional":
        return True
    if rope.layer_type != DEFAULT and kind == "yarn" and not schedule.parameters.get("truncate", True):
        # Stock code looks for `truncate` beside the layer types instead of inside them.
        return True
    # A plain type would silently switch off the softmax temperature that these models were trained with.
    return rope.softmax_scale != 1.0 and kind == "default" and not schedule.is_identity


def _default(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    native = schedule.native or {}
    theta = float(native.get("rope_theta", schedule.geometry.rope_theta))
    return {"rope_type": "default", "rope_theta": theta}


def _linear(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    return _base("linear", schedule) | _softmax(facts, rope)


def _proportional(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    native = schedule.native or {}
    values = {
        "rope_type": "proportional",
        "rope_theta": float(native.get("rope_theta", schedule.geometry.rope_theta)),
        "partial_rotary_factor": schedule.geometry.partial_rotary_factor,
    }
    # Only `linear` divides; a changed base already holds the whole stretch.
    return values | ({"factor": schedule.factor} if native.get("type") == "proportional" else {})


def _yarn(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    given = {name: value for name, value in (schedule.native or {}).items() if name != "type"}
    values = _base("yarn", schedule) | _original(schedule) | given
    if "mscale_all_dim" not in values:
        values |= _softmax(facts, rope)
    if "mscale_all_dim" in values and "mscale" not in values:
        # One of the two alone is ignored for cos and sin, so the factor is stated rather than left to the reader.
        values.setdefault("attention_factor", schedule.attention_factor)
    return values


def _llama3(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    given = {name: value for name, value in (schedule.native or {}).items() if name != "type"}
    return _base("llama3", schedule) | _original(schedule) | given | _softmax(facts, rope)


def _longrope(facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule) -> dict[str, Any]:
    long = factors_of(schedule, schedule.inv_freq)
    short = long if schedule.short_inv_freq is None else factors_of(schedule, schedule.short_inv_freq)
    values = _base("longrope", schedule) | _original(schedule) | _softmax(facts, rope)
    values |= {
        "long_factor": long,
        "short_factor": short,
        "attention_factor": float(schedule.attention_factor),
    }
    if quirk(facts.text_type, "own_mscales"):
        # This class multiplies by its own two numbers instead of the attention factor, and never reads long_factor.
        if schedule.short_inv_freq is not None and short != long:
            raise RopewalkError(
                f"model_type={shown(facts.text_type)} reads only the short set of longrope, and this schedule has two",
                hint="use a method with one set of frequencies, or " + _IN_MEMORY,
            )
        values |= {name: float(schedule.attention_factor) for name in ("short_mscale", "long_mscale")}
    return values


def factors_of(schedule: FrequencySchedule, inv_freq: FloatArray) -> list[float]:
    """theta_i/theta'_i for a config file; STOPPED_FACTOR where a pair stands still."""
    base = schedule.geometry.inv_freq
    factors = np.full(base.shape, STOPPED_FACTOR)
    moving = (base > 0) & (inv_freq > 0)
    factors[moving] = np.minimum(base[moving] / inv_freq[moving], STOPPED_FACTOR)
    return [float(value) for value in factors]


def _base(kind: str, schedule: FrequencySchedule) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": schedule.geometry.rope_theta, "factor": schedule.factor}


def _original(schedule: FrequencySchedule) -> dict[str, Any]:
    return {"original_max_position_embeddings": schedule.geometry.original_length}


def _softmax(facts: ModelFacts, rope: RopeFacts) -> dict[str, Any]:
    """MLA models read mscale_all_dim for the softmax as well: it stays, whatever the new type is."""
    share = rope.parameters.get("mscale_all_dim")
    return (
        {"mscale_all_dim": share} if share and (row_of(facts.text_type) or {}).get("softmax_mscale") else {}
    )


def _notes(
    facts: ModelFacts, rope: RopeFacts, schedule: FrequencySchedule, values: Mapping[str, Any], kind: str
) -> tuple[str, ...]:
    notes = list(schedule.notes)
    if kind == "longrope" and np.any((schedule.inv_freq == 0) & (schedule.geometry.inv_freq > 0)):
        notes.append(f"stopped pairs are written as the factor {STOPPED_FACTOR:g}: no reader takes infinity")
    share = values.get("mscale_all_dim")
    if share and is_number(share) and (row_of(facts.text_type) or {}).get("softmax_mscale"):
        after = softmax_scale({"rope_type": kind, "mscale_all_dim": share}, schedule.factor, scaled=True)
        notes.append(
            f"attention of {facts.text_type} also scales its softmax by mscale_all_dim={share:g}: "
            f"{rope.softmax_scale:.4g} becomes {after:.4g}"
        )
    if kind == "longrope" and schedule.short_inv_freq is not None:
        notes.append(
            "two sets: stock transformers picks one for the whole batch, the long one as soon as any row is "
            f"longer than {schedule.geometry.original_length} tokens"
        )
    return tuple(notes)
