"""What can be wrong with the original window of a scaled entry, and what tells which window was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.tidy import REPAIR
from ropewalk.models.facts import ModelFacts, RopeFacts
from ropewalk.models.structure.record import RECORD
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.models.structure.scaling import KEEPS_ORIGINAL
from ropewalk.models.structure.values import is_number, is_whole, shown

# Stretches beyond this are no stretches but slips; the methods refuse them too.
MOST = 1e6
# Lengths that other software keeps beside max_position_embeddings.
OTHER_LENGTHS = ("model_max_length", "max_sequence_length", "seq_length", "max_seq_len", "n_ctx")


def original_rules(
    facts: ModelFacts, rope: RopeFacts, tokenizer: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """Every finding about the original window of one entry."""
    # What we wrote states its window, and may declare another one than factor times it.
    if rope.rope_type not in KEEPS_ORIGINAL or facts.config.get(RECORD):
        return
    window, factor = facts.max_position_embeddings, rope.parameters.get("factor")
    stretch = float(factor) if is_number(factor) and 1 < factor <= MOST else None
    if original_is_missing(facts, rope):
        if stretch is not None or factor is None:
            yield _original_missing(facts, rope, stretch, tokenizer)
        return
    original = rope.geometry.original_length
    if original > window:
        yield Finding(
            "original-above-window",
            "error",
            f"original_max_position_embeddings={original}{at(rope)} is above max_position_embeddings={window}",
            f"write max_position_embeddings={original if stretch is None else round(original * stretch)}; {REPAIR}",
            repairable=stretch is not None,
        )
    elif original == window and stretch is not None:
        yield Finding(
            "window-not-raised",
            "warning",
            f"factor={stretch:g}{at(rope)}, yet max_position_embeddings={window} is still the original window: "
            "software that reads it (generation limits, SGLang, llama.cpp's converter) stops there, vLLM "
            "multiplies it for yarn",
            f"write max_position_embeddings={round(original * stretch)}; {REPAIR}",
            repairable=True,
        )


def _original_missing(
    facts: ModelFacts, rope: RopeFacts, stretch: float | None, tokenizer: Mapping[str, Any] | None
) -> Finding:
    window = facts.max_position_embeddings
    either = "the trained window" if stretch is None else f"{max(1, round(window / stretch))} or {window}"
    known = meant_original(facts, rope, tokenizer)
    fix = f"write original_max_position_embeddings={either}, by whether the window was raised for the stretch"
    if known is not None:
        fix = f"write original_max_position_embeddings={known[0]}, since {known[1]}; {REPAIR}"
    elif stretch is not None:
        fix += (
            "; `ropewalk extend MODEL --repair --original-length TOKENS -o OUT` writes the one that you name"
        )
    return Finding(
        "original-length-missing",
        "error",
        f"rope_type={rope.rope_type}{at(rope)} without original_max_position_embeddings: transformers "
        f"takes max_position_embeddings={window} for the original window (and fails where it stands there as null), "
        "vLLM fails; if it was raised for the stretch, most frequencies come out wrong, without a warning",
        fix,
        repairable=known is not None,
    )


def meant_original(
    facts: ModelFacts, rope: RopeFacts, tokenizer: Mapping[str, Any] | None
) -> tuple[int, str] | None:
    """The original window that a file without one must mean, with the evidence; None where nothing tells.

    A length elsewhere that is the window over the factor says that the window was raised, one that is the window
    times the factor that it was not. One that equals the window says nothing: it may have been raised with it.
    """
    window, factor = facts.max_position_embeddings, rope.parameters.get("factor")
    if not is_number(factor) or not 1 < factor <= MOST:
        return None
    limits = {name: facts.text.get(name) for name in OTHER_LENGTHS}
    limits["the tokenizer's model_max_length"] = (tokenizer or {}).get("model_max_length")
    found: dict[int, str] = {}
    for name, limit in limits.items():
        if is_whole(limit) and int(limit) == round(window / factor):
            found[int(limit)] = f"{name} is {int(limit)}"
        elif is_whole(limit) and int(limit) == round(window * factor):
            found[window] = f"{name} is {int(limit)}, the window times the factor"
    return next(iter(found.items())) if len(found) == 1 else None


def original_is_missing(facts: ModelFacts, rope: RopeFacts) -> bool:
    """Whether a type that needs the original window finds it neither in the entry nor beside it."""
    if is_whole(rope.parameters.get("original_max_position_embeddings")):
        return False
    text = facts.text
    return rope.layer_type != DEFAULT or text.get("original_max_position_embeddings") is None


def at(rope: RopeFacts) -> str:
    """Where the entry is, for a message: nothing for a flat one."""
    return "" if rope.layer_type == DEFAULT else f" of {shown(rope.layer_type)}"
