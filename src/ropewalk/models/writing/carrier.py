"""A schedule written into a whole configuration, in both dialects, so that stock software computes it unaided."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.facts import ModelFacts, RopeFacts, read_facts
from ropewalk.models.structure.layers import is_sliding
from ropewalk.models.structure.record import RECORD, make_record
from ropewalk.models.structure.ropes import DEFAULT, silent_entries
from ropewalk.models.structure.table import quirk, row_of
from ropewalk.models.structure.values import is_whole, shown
from ropewalk.models.structure.view import BASE_SPELLINGS, view_of
from ropewalk.models.writing.entries import Entry, entry_for
from ropewalk.schedule import FrequencySchedule

LAYERS = ("full", "all")
_LENGTH_SPELLINGS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)


@dataclass(frozen=True)
class Carried:
    """A configuration that holds a schedule: per rotary entry what was written, and remarks for the user."""

    config: dict[str, Any]
    entries: Mapping[str, Entry]
    schedules: Mapping[str, FrequencySchedule]
    old_dialect: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Every entry's remarks, each once."""
        return tuple(dict.fromkeys(note for entry in self.entries.values() for note in entry.notes))


def config_with(
    config: Mapping[str, Any],
    schedule: FrequencySchedule,
    *,
    target_length: int | None = None,
    layers: str = "full",
) -> dict[str, Any]:
    """A new configuration in which stock software computes `schedule`; the given one stays as it is. See `carry`."""
    return carry(config, schedule, target_length=target_length, layers=layers).config


def carry(
    config: Mapping[str, Any],
    schedule: FrequencySchedule,
    *,
    target_length: int | None = None,
    layers: str = "full",
) -> Carried:
    """Write a schedule into a copy of a configuration.

    Both dialects are written whenever they can say the same: `rope_parameters`, and `rope_theta` with `rope_scaling`.
    In models with one entry per layer type only the full-attention one changes, unless `layers="all"`, where each
    layer type gets the same method on its own geometry. `target_length` (default: the schedule's own) becomes
    max_position_embeddings. Raises RopewalkError where stock software cannot hold the schedule.
    """
    facts = read_facts(config)
    target = schedule.target_length if target_length is None else target_length
    if not is_whole(target) or target < 1:
        raise UsageError(
            f"target_length={shown(target)} is not a number of tokens", hint="give tokens, 1 or more"
        )
    schedules = schedules_for(facts, schedule, layers)
    return _carried(config, facts, schedules, int(target), note=True)


def write_schedules(
    config: Mapping[str, Any],
    facts: ModelFacts,
    schedules: Mapping[str, FrequencySchedule],
    target_length: int,
    *,
    note: bool = True,
) -> dict[str, Any]:
    """A new configuration with one schedule for each rotary entry named; without a note for a mere correction."""
    return _carried(config, facts, schedules, target_length, note=note).config


def _carried(
    config: Mapping[str, Any],
    facts: ModelFacts,
    schedules: Mapping[str, FrequencySchedule],
    target: int,
    *,
    note: bool,
) -> Carried:
    entries = {label: entry_for(facts, facts.ropes[label], made) for label, made in schedules.items()}
    fresh = copy.deepcopy(dict(config))
    text = fresh
    # The mapping of the text model, made where a composite left it out.
    for key in facts.text_path:
        if not isinstance(text.get(key), dict):
            text[key] = {}
        text = text[key]
    if tuple(facts.ropes) == (DEFAULT,):
        old = _write_flat(text, facts, entries[DEFAULT])
    else:
        old = _write_nested(text, facts, entries)
    _write_lengths(fresh, text, facts, target)
    # Some classes leave head_dim at None, on which stock yarn, longrope and dynamic crash.
    row = row_of(facts.text_type) or {}
    unset = text.get("head_dim") is None
    if unset and (row.get("head_dim") == "null" or "head_dim" in text):
        text["head_dim"] = view_of(facts.config).head_dim
    if note:
        written = {label: entry.values for label, entry in entries.items()}
        fresh[RECORD] = make_record(schedules, written, target)
    return Carried(fresh, entries, schedules, old)


def schedules_for(
    facts: ModelFacts, schedule: FrequencySchedule, layers: str
) -> dict[str, FrequencySchedule]:
    """The schedule of every rotary entry that `layers` means, by label; UsageError for another model's schedule."""
    if layers not in LAYERS:
        raise UsageError(f"layers={shown(layers)} is not a choice", hint="use full or all")
    main = facts.rope
    if schedule.geometry != main.geometry:
        raise UsageError(
            f"the schedule was made for another geometry (original_length={schedule.geometry.original_length}, "
            f"rope_theta={schedule.geometry.rope_theta:g}, {schedule.geometry.half_dim} pairs) than the "
            f"model's (original_length={main.geometry.original_length}, "
            f"rope_theta={main.geometry.rope_theta:g}, {main.geometry.half_dim} pairs)",
            hint="make it from ropewalk.read_geometry(model)",
        )
    if layers == "full" and is_sliding(facts.main):
        raise RopewalkError(
            f"model_type={shown(facts.text_type)}: only its sliding layers rotate; its full-attention layers "
            "know no position and need no stretch",
            hint="nothing has to be extended; pass layers='all' (--layers all) to stretch the sliding layers anyway",
        )
    found = {facts.main: schedule}
    if layers == "all":
        others = {label: rope for label, rope in facts.ropes.items() if label != facts.main}
        found |= {label: _same_method(schedule, rope) for label, rope in others.items()}
    return found


def _same_method(schedule: FrequencySchedule, rope: RopeFacts) -> FrequencySchedule:
    """The method of a schedule on another layer type's geometry."""
    if rope.geometry == schedule.geometry:
        return schedule
    listed = any(isinstance(value, list) for value in schedule.parameters.values())
    try:
        if listed or "rope_theta" in schedule.parameters:
            raise UsageError("its parameters belong to one geometry", hint="")
        return make_schedule(
            schedule.method, rope.geometry, factor=schedule.factor, **dict(schedule.parameters)
        )
    except UsageError as error:
        raise RopewalkError(
            f"layers='all': method {shown(schedule.method)} cannot be repeated on layer type "
            f"{shown(rope.layer_type)} ({error.message})",
            hint="use layers='full', or a method that only takes a factor",
        ) from error


def _write_flat(text: dict[str, Any], facts: ModelFacts, entry: Entry) -> bool:
    """The flat dictionary, and the old pair beside it unless this class never read it or it cannot say the same."""
    values = dict(entry.values)
    text["rope_parameters"] = values
    if (row_of(facts.text_type) or {}).get("new_only") or entry.kind == "proportional":
        text.pop("rope_scaling", None)
        if "rope_theta" in text:
            text["rope_theta"] = float(values["rope_theta"])
        return False
    _write_base(text, facts, float(values["rope_theta"]))
    old = {name: value for name, value in values.items() if name not in ("rope_theta",)}
    default = (row_of(facts.text_type) or {}).get("rope_parameters") or {}
    scaled_class = default.get("rope_type", "default") != "default"
    if entry.kind == "default" and set(old) <= {"rope_type", "partial_rotary_factor"} and not scaled_class:
        # Nothing to say in the old dialect; null rather than absent where the file had the key.
        if "rope_scaling" in text:
            text["rope_scaling"] = None
        return True
    text["rope_scaling"] = {"type": entry.kind} | old
    return True


def _write_base(text: dict[str, Any], facts: ModelFacts, rope_theta: float) -> None:
    spelled = [name for name in BASE_SPELLINGS if name in text]
    wanted = quirk(facts.text_type, "base_key") or "rope_theta"
    for name in {*spelled, wanted}:
        text[name] = rope_theta
    attention = text.get("attn_config")
    if isinstance(attention, dict) and "rope_theta" in attention:
        attention["rope_theta"] = rope_theta
    by_layer = text.get("layer_rope_theta")
    if isinstance(by_layer, list):
        old = facts.rope.parameters["rope_theta"]
        # Layers on the common base follow it; those on another and those that never rotate (0) stay.
        text["layer_rope_theta"] = [rope_theta if value == old else value for value in by_layer]


def _write_nested(text: dict[str, Any], facts: ModelFacts, entries: Mapping[str, Entry]) -> bool:
    """The nested dictionary with the given entries replaced, and the old keys where this class ever had any."""
    # From the file or from its class: a dictionary of ours replaces the class's whole.
    nested: dict[str, Any] = dict(silent_entries(view_of(facts.config)))
    nested |= {label: dict(rope.parameters) for label, rope in facts.ropes.items()}
    nested |= {label: dict(entry.values) for label, entry in entries.items()}
    text["rope_parameters"] = nested
    sliding = nested.get("sliding_attention") or {}
    plain = sliding.get("rope_type") == "default"
    if not quirk(facts.text_type, "old_nested_keys") or "full_attention" not in nested or not plain:
        for name in ("rope_scaling", "rope_local_base_freq", "global_rope_theta", "local_rope_theta"):
            text.pop(name, None)
        if "rope_theta" in text:
            text["rope_theta"] = float(nested[facts.main]["rope_theta"])
        return False
    full = nested["full_attention"]
    text["rope_theta"] = float(full["rope_theta"])
    text["rope_local_base_freq"] = float(sliding["rope_theta"])
    old = {name: value for name, value in full.items() if name != "rope_theta"}
    text["rope_scaling"] = None if full["rope_type"] == "default" else {"type": full["rope_type"]} | old
    return True


def _write_lengths(root: dict[str, Any], text: dict[str, Any], facts: ModelFacts, target: int) -> None:
    row = row_of(facts.text_type) or {}
    standard = row.get("aliases", {}).get("max_position_embeddings", "max_position_embeddings")
    for name in {standard, *(name for name in _LENGTH_SPELLINGS if name in text)}:
        text[name] = target
    # Some composites say it a second time at the root.
    if root is not text and is_whole(root.get("max_position_embeddings")):
        root["max_position_embeddings"] = target
    beside = quirk(facts.text_type, "original_at_root")
    if "original_max_position_embeddings" in text or beside:
        # A value beside the rotary dictionary wins over the one inside it.
        text["original_max_position_embeddings"] = facts.original_length
