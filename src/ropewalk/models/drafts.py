"""Companion models: what drafts for a model must rotate alike, or speculation proposes what the target never says.

Layers for multi-token prediction share the target's configuration. A draft model (or an EAGLE head) has one of its
own, in a folder beside or inside the target's.
"""

from __future__ import annotations

from pathlib import Path

from ropewalk.errors import RopewalkError
from ropewalk.models.config import read_config
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.source import CONFIG_NAME, Place
from ropewalk.models.structure.values import shown
from ropewalk.models.structure.view import view_of
from ropewalk.units import format_length

# Where configurations say how many layers predict further tokens.
_COUNTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules")


def companion_remarks(facts: ModelFacts, place: Place | None) -> tuple[str, ...]:
    """What drafts for this model, in words: its own prediction layers, and models in folders inside its own."""
    folders = [] if place is None else draft_folders(place)
    return (*prediction_layers(facts), *(_beside(facts, folder) for folder in folders))


def prediction_layers(facts: ModelFacts) -> tuple[str, ...]:
    """A remark on layers that predict further tokens, where the model has any."""
    text = view_of(facts.config).text
    for name in _COUNTS:
        count = text.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            layers = "layer predicts" if count == 1 else "layers predict"
            return (
                f"{count} more {layers} further tokens ({name}): they share this configuration and rotate alike",
            )
    return ()


def draft_folders(place: Place) -> list[Path]:
    """Folders inside a model's own that hold a model with a configuration of its own."""
    if place.is_lone_file:
        # The folder that a GGUF file or a lone configuration lies in is no model's: its neighbours are strangers.
        return []
    found = place.folder.glob(f"*/{CONFIG_NAME}")
    return sorted(path.parent for path in found if not path.parent.name.startswith("."))


def difference(target: ModelFacts, draft: ModelFacts) -> str | None:
    """How the rotation of a draft differs from its target's, in words; None where both are the same.

    A draft may have heads of its own: what must agree is the window, and the stretch from the same original window.
    """
    ours, theirs = target.rope, draft.rope
    if draft.max_position_embeddings != target.max_position_embeddings:
        return (
            f"its window is {format_length(draft.max_position_embeddings)}, the target's "
            f"{format_length(target.max_position_embeddings)}"
        )
    # Not the frequencies themselves: heads of another width turn at others by the same rule.
    if (theirs.rope_type, theirs.factor) != (ours.rope_type, ours.factor):
        return (
            f"it is stretched by {shown(theirs.rope_type)}, factor {theirs.factor:g}, the target by "
            f"{shown(ours.rope_type)}, factor {ours.factor:g}"
        )
    if theirs.geometry.original_length != ours.geometry.original_length:
        return (
            f"its original window is {format_length(theirs.geometry.original_length)}, the target's "
            f"{format_length(ours.geometry.original_length)}"
        )
    return None


def _beside(facts: ModelFacts, folder: Path) -> str:
    name = shown(folder.name)
    try:
        draft = read_facts(read_config(folder / CONFIG_NAME))
    except RopewalkError as error:
        return f"the folder {name} holds a model that cannot be compared ({error.message})"
    other = difference(facts, draft)
    if other is None:
        return f"the folder {name} holds a model that is stretched like this one"
    return (
        f"the folder {name} holds a model that differs: {other} (as a draft it must be extended too, --draft)"
    )
