"""The corrected configuration that the findings ask for: stock readers of every dialect then compute what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods import schedule as make_schedule
from ropewalk.methods.build import temperature
from ropewalk.models.defects.entry import respelled
from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.original import meant_original
from ropewalk.models.defects.tidy import entries_in, tidy
from ropewalk.models.facts import ModelFacts, RopeFacts, read_facts
from ropewalk.models.structure.ropes import DEFAULT, entry_type, silent_entries
from ropewalk.models.structure.scaling import KEEPS_ORIGINAL, yarn_schedule
from ropewalk.models.structure.table import row_of
from ropewalk.models.structure.values import is_number, is_whole
from ropewalk.models.structure.view import BASE_SPELLINGS, view_of
from ropewalk.models.writing.carrier import write_schedules
from ropewalk.schedule import FrequencySchedule

_ROPE_KEYS = ("rope_parameters", "rope_scaling")
# Mended by writing the frequencies that are meant anew, in both dialects.
_BY_REWRITING = frozenset({"unknown-rope-type", "nested-truncate", "phi-longrope-only"})
_ROUNDS = 4
Mend = Callable[[dict[str, Any], ModelFacts], None]


def repaired_config(
    config: Mapping[str, Any],
    findings: Iterable[Finding] | None = None,
    *,
    tokenizer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A new configuration with every repairable finding mended; what cannot be mended stays as it is.

    `findings` (default: all of them) may be a selection. Faults of type and place come first, then single values,
    then, where a finding wants it, the frequencies that are meant are written anew in both dialects. `find` on the
    result says what is left. `tokenizer` (the content of tokenizer_config.json) is evidence of the trained window.
    """
    found = find(config, tokenizer=tokenizer)
    given = found if findings is None else list(findings)
    wanted = {finding.id for finding in given if finding.repairable}
    fixed, _ = tidy(config)
    everything = wanted == {finding.id for finding in found if finding.repairable}
    for _ in range(_ROUNDS):
        fixed = _mended(fixed, wanted, tokenizer)
        # A mended fault may uncover another one: a dictionary that now is read may lack its original length.
        left = {finding.id for finding in find(fixed, tokenizer=tokenizer) if finding.repairable}
        if not everything or not left:
            break
        wanted = left
    return fixed


def with_original(config: Mapping[str, Any], original_length: int) -> dict[str, Any]:
    """A copy that states the original window of its scaling, as somebody who knows it says."""
    fixed, _ = tidy(config)
    facts = read_facts(fixed)
    stated = [
        entry
        for label, rope in facts.ropes.items()
        if rope.rope_type in KEEPS_ORIGINAL
        for entry in _entries(fixed, label)
    ]
    if not stated:
        raise UsageError(
            f"original_length={original_length} has nowhere to stand: the file's scaling "
            f"({facts.rope.rope_type}) keeps no original window",
            hint="leave it out",
        )
    for entry in stated:
        entry["original_max_position_embeddings"] = original_length
    text = _text(fixed)
    if "original_max_position_embeddings" in text:
        text["original_max_position_embeddings"] = original_length
    return fixed


def _mended(config: dict[str, Any], wanted: set[str], tokenizer: Mapping[str, Any] | None) -> dict[str, Any]:
    facts = read_facts(config)
    if "original-length-missing" in wanted:
        # The window that the evidence speaks for; where there is none, the finding is not repairable.
        for label, rope in facts.ropes.items():
            known = meant_original(facts, rope, tokenizer) if rope.rope_type in KEEPS_ORIGINAL else None
            if known is None:
                continue
            for entry in _entries(config, label):
                if not is_whole(entry.get("original_max_position_embeddings")):
                    entry["original_max_position_embeddings"] = known[0]
        facts = read_facts(config)
    for name, mend in _MENDS.items():
        if name in wanted:
            mend(config, facts)
            facts = read_facts(config)
    return _rewritten(config, facts) if wanted & _BY_REWRITING else config


def _text(config: dict[str, Any]) -> dict[str, Any]:
    here = config
    for key in view_of(config).path:
        here = here.setdefault(key, {})
    return here


def _entries(config: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """The dictionaries in the file that hold an entry, one for each dialect that has it."""
    text, found = _text(config), []
    for key in _ROPE_KEYS:
        value = text.get(key)
        if not isinstance(value, dict) or not value:
            continue
        inner = value.get(label)
        if isinstance(inner, dict):
            found.append(inner)
        elif label == DEFAULT or key == "rope_scaling":
            found.append(value)
    return found


def _each(change: Callable[[dict[str, Any], ModelFacts, RopeFacts], None]) -> Mend:
    def mend(config: dict[str, Any], facts: ModelFacts) -> None:
        for label, rope in facts.ropes.items():
            if rope.rope_type == "default":
                continue
            for entry in _entries(config, label):
                change(entry, facts, rope)

    return mend


def _drop_scaling(config: dict[str, Any], facts: ModelFacts) -> None:
    for key in _ROPE_KEYS:
        _text(config).pop(key, None)


def _nest(config: dict[str, Any], facts: ModelFacts) -> None:
    text = _text(config)
    flat = text["rope_parameters"]
    nested = {label: dict(rope.parameters) for label, rope in facts.ropes.items()}
    # What a flat dictionary leaves out is the class's; scaled types read the share from the entry alone.
    own = {name: nested[facts.main].get(name) for name in ("rope_theta", "partial_rotary_factor")}
    nested[facts.main] = {name: value for name, value in own.items() if value is not None} | flat
    text["rope_parameters"] = silent_entries(view_of(config)) | nested


def _move_old(config: dict[str, Any], facts: ModelFacts) -> None:
    text = _text(config)
    old = text.pop("rope_scaling")
    if tuple(facts.ropes) == (DEFAULT,):
        text["rope_parameters"] = dict(facts.rope.parameters) | old
        return
    entries = {label: dict(rope.parameters) for label, rope in facts.ropes.items()}
    entries[facts.main] |= old
    text["rope_parameters"] = silent_entries(view_of(config)) | entries


def _restate(config: dict[str, Any], facts: ModelFacts) -> None:
    """Both dialects saying what transformers reads today."""
    text, values = _text(config), dict(facts.rope.parameters)
    for name in {"rope_theta", *(name for name in ("rotary_emb_base",) if name in text)}:
        text[name] = values["rope_theta"]
    text["rope_parameters"] = values
    plain = set(values) <= {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if values["rope_type"] == DEFAULT and plain:
        text.pop("rope_scaling", None)
        return
    old = {name: value for name, value in values.items() if name != "rope_theta"}
    text["rope_scaling"] = {"type": values["rope_type"]} | old


def _agree_on_original(config: dict[str, Any], facts: ModelFacts) -> None:
    for entry in _entries(config, DEFAULT):
        entry["original_max_position_embeddings"] = facts.original_length


def _name_type(config: dict[str, Any], facts: ModelFacts) -> None:
    old = _text(config)["rope_scaling"]
    old["rope_type"] = old["type"]


def _state_head_dim(config: dict[str, Any], facts: ModelFacts) -> None:
    _text(config)["head_dim"] = view_of(config).head_dim


def _state_factor(entry: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> None:
    factor, implied = entry.get("factor"), facts.max_position_embeddings / rope.geometry.original_length
    if implied > 1.0 and (factor is None or not is_number(factor) or factor <= 0):
        entry["factor"] = implied


def _state_base(config: dict[str, Any], facts: ModelFacts) -> None:
    """The one base that the file states, wherever another place holds null."""
    text = _text(config)
    entries = [entry for key in _ROPE_KEYS for _, entry in entries_in(key, text.get(key))]
    places = [(text, name) for name in BASE_SPELLINGS if name in text]
    places += [(entry, "rope_theta") for entry in entries if "rope_theta" in entry]
    stated = next(place[name] for place, name in places if place[name] is not None)
    for place, name in places:
        if place[name] is None:
            place[name] = stated


def _respell(entry: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> None:
    same = respelled(rope.rope_type)
    if same is not None:
        entry |= {name: same for name in ("rope_type", "type") if name in entry}


def _raise_window(config: dict[str, Any], facts: ModelFacts) -> None:
    rope = facts.rope
    if rope.factor > 1 and facts.max_position_embeddings <= rope.geometry.original_length:
        _text(config)["max_position_embeddings"] = round(rope.geometry.original_length * rope.factor)


def _state_attention(entry: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> None:
    given = entry.get("attn_factor")
    if is_number(given) and entry.get("attention_factor") is None:
        entry["attention_factor"] = float(given) * temperature(rope.factor)
    entry.pop("attn_factor", None)


def _state_mscales(entry: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> None:
    if rope.schedule is not None:
        entry |= dict.fromkeys(("short_mscale", "long_mscale"), rope.schedule.attention_factor)


def _proportional(entry: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> None:
    if rope.rope_type == "linear":
        entry.pop("type", None)
        entry["rope_type"] = "proportional"
        own = ((row_of(facts.text_type) or {}).get("rope_parameters") or {}).get(rope.layer_type) or {}
        entry.setdefault("partial_rotary_factor", own.get("partial_rotary_factor", 1.0))


# In this order: a factor before the window that follows from it, and both dialects last, from what was
# mended.
_MENDS: dict[str, Mend] = {
    "scaling-ignored": _drop_scaling,
    "flat-rope-on-nested": _nest,
    "rope-scaling-unread": _move_old,
    "missing-factor": _each(_state_factor),
    "bad-factor": _each(_state_factor),
    "base-null": _state_base,
    "unknown-rope-type": _each(_respell),
    "original-above-window": _raise_window,
    "window-not-raised": _raise_window,
    "attn-factor-spelling": _each(_state_attention),
    "head-dim-null": _state_head_dim,
    "phimoe-mscale": _each(_state_mscales),
    "proportional-replaced": _each(_proportional),
    "old-type-key": _name_type,
    "original-lengths-disagree": _agree_on_original,
    "nested-rope-on-flat": _restate,
    "dialects-disagree": _restate,
    "new-dialect-only": _restate,
}


def _rewritten(config: dict[str, Any], facts: ModelFacts) -> dict[str, Any]:
    """The same configuration with the frequencies that it means written anew in both dialects."""
    schedules = {}
    for label, rope in facts.ropes.items():
        meant = rope.schedule if rope.rope_type in _KNOWN else None
        meant = _meant(config, facts, rope) if meant is None or not _same_type(config, facts, rope) else meant
        if meant is not None:
            schedules[label] = meant
    if not schedules:
        return config
    return write_schedules(config, facts, schedules, facts.max_position_embeddings, note=False)


# Dynamic is missing: it has no single schedule to write.
_KNOWN = ("default", "linear", "yarn", "llama3", "longrope", "proportional")


def _same_type(config: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> bool:
    """Whether the type that the file names is the one that the class will use."""
    return all(entry_type(entry) in (rope.rope_type, "mrope") for entry in _entries(config, rope.layer_type))


def _meant(config: dict[str, Any], facts: ModelFacts, rope: RopeFacts) -> FrequencySchedule | None:
    """What an entry wanted that stock code does not understand, as a schedule."""
    raw = next(iter(_entries(config, rope.layer_type)), None)
    kind = entry_type(raw) if raw is not None else rope.rope_type
    factor = rope.parameters.get("factor")
    if not is_number(factor) or factor < 1:
        return rope.schedule
    try:
        if kind.lower().startswith("ntk") or kind.lower().endswith("ntk"):
            return make_schedule("ntk", rope.geometry, factor=factor)
        if kind == "yarn" and rope.rope_type != "yarn":
            return yarn_schedule(rope.parameters, rope.geometry, float(factor))
    except RopewalkError:
        return None
    return rope.schedule
