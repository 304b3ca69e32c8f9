"""What can be wrong between dialects: keys that contradict, that only some readers see, in the wrong shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.tidy import REPAIR
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.record import FORMAT, RECORD, note_on, recorded
from ropewalk.models.structure.ropes import DEFAULT, entry_type, is_nested_type, nested_labels
from ropewalk.models.structure.scaling import KEEPS_ORIGINAL
from ropewalk.models.structure.table import quirk, row_of
from ropewalk.models.structure.values import exact, is_number, shown
from ropewalk.models.structure.view import view_of

# Spelled differently by readers of either dialect, or filled in by them.
_NOT_COMPARED = {
    "type",
    "rope_type",
    "rope_theta",
    "partial_rotary_factor",
    "max_position_embeddings",
    "finetuned",
}


def dialect_rules(facts: ModelFacts) -> Iterator[Finding]:
    """Every finding about the dialects of a configuration."""
    text = facts.text
    new, old = text.get("rope_parameters"), text.get("rope_scaling")
    yield from _table(facts, new or old)
    if (row_of(facts.text_type) or {}).get("table"):
        return
    yield from _flat_on_nested(facts, new)
    yield from _old_on_nested(facts, old)
    yield from _layer_types(facts, new)
    yield from _two_originals(facts, new, old)
    yield from _phi(facts, new, old)
    yield from _proportional(facts)
    if tuple(facts.ropes) == (DEFAULT,) and not (row_of(facts.text_type) or {}).get("new_only"):
        yield from _disagreement(facts, new, old)
        yield from _one_dialect(facts, new, old)
    yield from _base(facts, new, old)
    yield from _note(facts)


def _table(facts: ModelFacts, given: Any) -> Iterator[Finding]:
    if (row_of(facts.text_type) or {}).get("table") and given:
        yield Finding(
            "scaling-ignored",
            "error",
            f"{facts.text_type} rotates by a table of {facts.max_position_embeddings} positions on base 10000 "
            "and reads no rotary keys: the scaling in this file does nothing",
            f"remove it, and apply a schedule in memory; {REPAIR}",
            repairable=True,
        )


def _flat_on_nested(facts: ModelFacts, new: Any) -> Iterator[Finding]:
    view = view_of(facts.config)
    if (
        not is_nested_type(view)
        or not isinstance(new, Mapping)
        or not new
        or quirk(facts.text_type, "flat_dictionary") == "copied"
    ):
        return
    if any(isinstance(value, Mapping) or value is None for value in new.values()) or quirk(
        facts.text_type, "compressed_ropes"
    ):
        return
    ignored = quirk(facts.text_type, "flat_dictionary") == "ignored"
    effect = "silently ignores it" if ignored else "crashes or drops it"
    yield Finding(
        "flat-rope-on-nested",
        "error",
        f"rope_parameters is one flat dictionary, but {facts.text_type} keeps one for each layer type and "
        f"{effect}",
        f"nest it under {facts.main} and leave the other layer types as they are; {REPAIR}",
        repairable=True,
    )


def _old_on_nested(facts: ModelFacts, old: Any) -> Iterator[Finding]:
    """`rope_scaling` where the class has no place for it: most replace their nested dictionary by it and crash."""
    nested = is_nested_type(view_of(facts.config)) and quirk(facts.text_type, "flat_dictionary") is None
    ignored = bool((row_of(facts.text_type) or {}).get("new_only"))
    if (
        not isinstance(old, Mapping)
        or not old
        or not (nested or ignored)
        or quirk(facts.text_type, "compressed_ropes")
    ):
        return
    effect = (
        "silently ignored"
        if ignored
        else "put in place of the entries for each layer type, and building crashes"
    )
    kind = entry_type(old)
    yield Finding(
        "rope-scaling-unread",
        "error",
        f"rope_scaling (rope_type {shown(kind)}) is {effect}: {facts.text_type} reads rope_parameters only",
        f"write it into rope_parameters{'' if ignored else '.' + facts.main}; {REPAIR}",
        repairable=True,
    )


def _layer_types(facts: ModelFacts, new: Any) -> Iterator[Finding]:
    """Nested dictionaries: on a class that wants a flat one, without a layer type in use, with keys beside them."""
    view = view_of(facts.config)
    labels = nested_labels(view, new) if isinstance(new, Mapping) else []
    if not labels:
        return
    if not is_nested_type(view):
        if facts.known:
            yield Finding(
                "nested-rope-on-flat",
                "error",
                f"rope_parameters is nested by layer type ({', '.join(map(shown, labels))}), but "
                f"{facts.text_type} reads one flat dictionary: it ignores the entries, or crashes",
                f"write the entry of the full-attention layers flat; {REPAIR}",
                repairable=True,
            )
        return
    # Classes with labels of their own (main, compress) name no layer types.
    used = {facts.layer_types[i] for i in facts.layers.rope} if not (view.row or {}).get("labels") else set()
    missing = sorted(used - set(labels) - set(facts.ropes))
    if missing and quirk(facts.text_type, "flat_dictionary") != "ignored":
        yield Finding(
            "layer-type-missing",
            "error",
            f"rope_parameters has no entry for {', '.join(map(shown, missing))}, which layer_types uses: "
            "building crashes",
            "add one, or null for layers that never rotate",
        )
    stray = [name for name in new if name not in labels]
    if stray:
        yield Finding(
            "stray-nested-key",
            "warning",
            f"{', '.join(map(shown, stray[:5]))} stands beside the layer types in rope_parameters, where "
            "nobody reads it",
            "move it into the entries, or remove it",
        )


def _two_originals(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    root = facts.text.get("original_max_position_embeddings")
    rope = facts.rope
    if rope.layer_type != DEFAULT or rope.rope_type not in KEEPS_ORIGINAL or not is_number(root):
        return
    inside = [
        place.get("original_max_position_embeddings") for place in (old, new) if isinstance(place, Mapping)
    ]
    other = next((value for value in inside if is_number(value) and value != root), None)
    if other is not None:
        yield Finding(
            "original-lengths-disagree",
            "error",
            f"original_max_position_embeddings={exact(root)} beside the rotary dictionary, {exact(other)} inside: "
            "transformers 5 takes the first, other readers the second",
            f"make them the same; {REPAIR}, following the first",
            repairable=True,
        )


def _phi(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    raw = old or new
    if not quirk(facts.text_type, "renames") or not isinstance(raw, Mapping):
        return
    kind = entry_type(raw)
    if kind in ("yarn", "su") and "long_factor" not in raw:
        text = f"rope_type={kind} becomes longrope in {facts.text_type}, which then misses its factor lists and crashes"
    elif kind not in ("default", "longrope", "yarn", "su"):
        text = f"rope_type={shown(kind)} is refused by {facts.text_type}: it takes default and longrope only"
    else:
        return
    yield Finding(
        "phi-longrope-only",
        "error",
        text,
        f"carry the same frequencies as longrope factors; {REPAIR}",
        repairable=True,
    )


def _proportional(facts: ModelFacts) -> Iterator[Finding]:
    default = (row_of(facts.text_type) or {}).get("rope_parameters") or {}
    for label, rope in facts.ropes.items():
        own = default.get(label) if isinstance(default, Mapping) else None
        if (
            not isinstance(own, Mapping)
            or own.get("rope_type") != "proportional"
            or rope.rope_type == "proportional"
        ):
            continue
        if rope.geometry.proportional or recorded(
            facts.config, label, rope.parameters, facts.max_position_embeddings
        ):
            continue
        yield Finding(
            "proportional-replaced",
            "error",
            f"rope_type={shown(rope.rope_type)} of {label}: {facts.text_type} rotates these layers "
            "proportionally, over the whole head with a zero tail; another type makes a shorter vector and "
            "the first forward crashes",
            "keep proportional and add factor, which divides like linear; " + REPAIR,
            repairable=rope.rope_type == "linear" and is_number(rope.parameters.get("factor")),
        )


def _disagreement(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    """transformers 5 takes `rope_scaling` where both are there; other readers take the one that they know."""
    if not isinstance(new, Mapping) or not new or not isinstance(old, Mapping) or not old:
        yield from _theta_disagreement(facts, new, old)
        return
    kinds = entry_type(new), entry_type(old)
    names = sorted((set(new) | set(old)) - _NOT_COMPARED)
    different = [name for name in names if new.get(name) != old.get(name)]
    if kinds[0] == kinds[1] and not different:
        yield from _theta_disagreement(facts, new, old)
        return
    what = f"rope_type {shown(kinds[0])} against {shown(kinds[1])}" if kinds[0] != kinds[1] else ""
    listed = ", ".join(
        f"{shown(name)} {shown(new.get(name))} against {shown(old.get(name))}" for name in different[:3]
    )
    yield Finding(
        "dialects-disagree",
        "error",
        "rope_parameters and rope_scaling say different things ("
        + ", ".join(part for part in (what, listed) if part)
        + "): transformers 5 follows rope_scaling, other software the one that it knows",
        f"keep one, or make them say the same; {REPAIR}, following rope_scaling",
        repairable=True,
    )


def _theta_disagreement(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    # Where both are there transformers 5 reads this one, its base included.
    name, place = ("rope_scaling", old) if old else ("rope_parameters", new)
    inside = place.get("rope_theta") if isinstance(place, Mapping) else None
    outside = facts.text.get("rope_theta")
    if is_number(inside) and is_number(outside) and inside != outside:
        yield Finding(
            "dialects-disagree",
            "error",
            f"{name}.rope_theta={inside:g}, but rope_theta={outside:g} beside it: transformers 5 follows the "
            "first, older readers, MLX and llama.cpp's converter the second",
            f"make them the same; {REPAIR}, following {name}",
            repairable=True,
        )


def _one_dialect(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    rope = facts.rope
    if isinstance(new, Mapping) and new and not old and not (row_of(facts.text_type) or {}).get("new_only"):
        scaled = entry_type(new) != DEFAULT
        theta = new.get("rope_theta") is not None and facts.text.get("rope_theta") is None
        # GPT-NeoX's own key, which older readers know as well.
        spelled = facts.text.get("rotary_emb_base") is not None
        if scaled or (theta and not spelled):
            lost = [f"rope_type {shown(rope.rope_type)}"] if scaled else []
            lost += [f"rope_theta {rope.parameters['rope_theta']:g}"] if theta else []
            yield Finding(
                "new-dialect-only",
                "warning",
                f"{' and '.join(lost)} written only in rope_parameters: MLX, llama.cpp's older converters, "
                "DeepSpeed and transformers 4 do not read it and run unscaled, without a word",
                f"write rope_theta and rope_scaling beside it; {REPAIR}",
                repairable=True,
            )
    # "mrope" is no scaling but a layout, and its classes know it under the old key only.
    if isinstance(old, Mapping) and "rope_type" not in old and old.get("type", "mrope") != "mrope":
        yield Finding(
            "old-type-key",
            "note",
            f'rope_scaling names its type under "type" only ({shown(old["type"])}): newer readers want "rope_type"',
            f"write both; {REPAIR}",
            repairable=True,
        )


def _base(facts: ModelFacts, new: Any, old: Any) -> Iterator[Finding]:
    view = view_of(facts.config)
    said = view.given("rope_theta") is not None or any(
        isinstance(place, Mapping)
        and ("rope_theta" in place or any(isinstance(v, Mapping) for v in place.values()))
        for place in (new, old)
    )
    if said or isinstance(facts.text.get("attn_config"), Mapping):
        return
    theta = facts.rope.parameters["rope_theta"]
    if facts.known:
        text = f"rope_theta is not in the file; the class of {shown(facts.text_type)} fills in {theta:g}"
        fix = f'other readers may assume 10000: write "rope_theta": {exact(theta)}'
    else:
        text = f"rope_theta is not in the file and {shown(facts.text_type)} is unknown here: {theta:g} is assumed"
        fix = "write rope_theta, or look into the model's own code"
    same = theta == 10000.0 and facts.known
    yield Finding("base-not-stated", "note" if same else "warning", text, fix)


def _note(facts: ModelFacts) -> Iterator[Finding]:
    note = facts.config.get(RECORD)
    if not isinstance(note, Mapping) or note.get("format") != FORMAT:
        return
    stale = [
        label
        for label, rope in facts.ropes.items()
        if note_on(facts.config, label) is not None
        and recorded(facts.config, label, rope.parameters, facts.max_position_embeddings) is None
    ]
    if stale:
        yield Finding(
            "stale-note",
            "warning",
            f"the note of an earlier extension ({', '.join(map(shown, stale))}) no longer fits the rotary keys "
            "or the window beside it, and is not used: somebody changed them by hand",
            'remove the key "ropewalk" if the change was meant, or extend the original model again',
        )
