"""What can be wrong with single keys: names that contradict each other, nulls, impossible bases, other lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.original import OTHER_LENGTHS
from ropewalk.models.defects.tidy import REPAIR, entries_in
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.values import exact, is_number, is_whole, shown
from ropewalk.models.structure.view import BASE_SPELLINGS

# No release comes near; float32 holds it no longer from 3.4e38 on.
_LARGEST_BASE = 1e15
# The same thing under an older name, or a layout that is no scaling.
_ALIKE = ({"su", "longrope"}, {"mrope", "default"})
_ROPE_KEYS = ("rope_parameters", "rope_scaling")


def spelling_rules(facts: ModelFacts) -> Iterator[Finding]:
    """Every finding about single keys of the rotary part."""
    yield from _two_names(facts)
    yield from _null_base(facts)
    yield from _huge_base(facts)
    yield from _other_lengths(facts)
    yield from _dual_chunk(facts)


def _entries(facts: ModelFacts) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in _ROPE_KEYS:
        yield from entries_in(key, facts.text.get(key))


def _two_names(facts: ModelFacts) -> Iterator[Finding]:
    """`type` and `rope_type` in one dictionary with different values."""
    for where, entry in _entries(facts):
        new, old = entry.get("rope_type"), entry.get("type")
        if not isinstance(new, str) or not isinstance(old, str) or new == old or {new, old} in _ALIKE:
            continue
        yield Finding(
            "two-types",
            "error",
            f"{where} holds rope_type={shown(new)} and type={shown(old)}: transformers and vLLM follow the first, "
            "older readers and converters the second",
            "keep the one that is meant under both names",
        )


def _null_base(facts: ModelFacts) -> Iterator[Finding]:
    """A base that stands in the file as null: stock code computes with None and dies."""
    text = facts.text
    places = [(name, text) for name in BASE_SPELLINGS if name in text]
    places += [(f"{where}.rope_theta", entry) for where, entry in _entries(facts) if "rope_theta" in entry]
    values = {name: place[name.rpartition(".")[2]] for name, place in places}
    nulls = [name for name, value in values.items() if value is None]
    if not nulls:
        return
    stated = sorted({float(value) for value in values.values() if is_number(value)})
    known = "the base that the model was trained with"
    if len(stated) == 1:
        said = next(name for name, value in values.items() if value == stated[0])
        known = f"{exact(stated[0])}, as {said} says; {REPAIR}"
    yield Finding(
        "base-null",
        "error",
        f"{' and '.join(nulls)} is null: transformers computes with None and dies with a TypeError when the model is "
        "built",
        f"write {known}",
        repairable=len(stated) == 1,
    )


def _huge_base(facts: ModelFacts) -> Iterator[Finding]:
    for label, rope in facts.ropes.items():
        theta = rope.parameters["rope_theta"]
        if theta > _LARGEST_BASE:
            where = "" if len(facts.ropes) == 1 else f" of {shown(label)}"
            yield Finding(
                "base-implausible",
                "error",
                f"rope_theta={theta:g}{where} is beyond any model's: all but the first pairs stand still, and float32 "
                "holds no base above 3.4e38",
                "write the base that the model was trained with; releases use 1e4 to 1e11",
            )


def _other_lengths(facts: ModelFacts) -> Iterator[Finding]:
    window = facts.max_position_embeddings
    different = {
        name: facts.text[name]
        for name in OTHER_LENGTHS
        if is_whole(facts.text.get(name)) and int(facts.text[name]) != window
    }
    if not different or facts.text.get("max_position_embeddings") is None:
        return
    listed = ", ".join(f"{name}={int(value)}" for name, value in different.items())
    yield Finding(
        "lengths-disagree",
        "warning",
        f"{listed} beside max_position_embeddings={window}: transformers and the frequencies go by the second, "
        "some servers offer the first (vLLM: model_max_length for Cohere's models, the smallest elsewhere)",
        "make them the same where the window is meant, and say which length a server shall offer "
        "(--max-model-len, --context-length)",
    )


def _dual_chunk(facts: ModelFacts) -> Iterator[Finding]:
    chunks = facts.text.get("dual_chunk_attention_config")
    if not isinstance(chunks, Mapping) or not chunks:
        return
    trained = chunks.get("original_max_position_embeddings")
    yield Finding(
        "dual-chunk",
        "note",
        f"max_position_embeddings={facts.max_position_embeddings} is reached by dual chunk attention (chunks of "
        f"{shown(chunks.get('chunk_size'))}), which vLLM and SGLang compute and transformers does not; trained were "
        f"{shown(trained)} tokens, from which a stretch counts",
        "use a stretch or dual chunk attention, not both; without it the window is the trained one",
    )
