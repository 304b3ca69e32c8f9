"""What a configuration class says where its config.json is silent (written by `tools/make_architectures.py`)."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

# Types whose attention layers rotate only inside a sliding window; their full-attention layers know no position.
SLIDING_ONLY = frozenset(
    {"cohere2", "cohere2_moe", "cohere_compass_text", "beam", "exaone4", "exaone_moe", "afmoe", "flint"}
)
# Types whose own dictionary is keyed by layer type; a flat one is ignored or crashes there.
FLAT_IGNORED = frozenset({"gemma3_text", "gemma3n_text", "olmo3", "modernbert-decoder", "t5gemma2_text"})
# And one that takes a flat one for every layer type.
COPIES_FLAT = frozenset({"dots3_note_text"})


@cache
def _document() -> dict[str, Any]:
    text = files("ropewalk.models.structure").joinpath("architectures.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def transformers_version() -> str:
    """The release of transformers that the table was read from."""
    return str(_document()["transformers"])


def row_of(model_type: object) -> dict[str, Any] | None:
    """The row of a model type, or None for a type that this table does not know."""
    row: dict[str, Any] | None = _document()["types"].get(model_type) if isinstance(model_type, str) else None
    return row


def known_types() -> list[str]:
    """Every model type in the table."""
    return sorted(_document()["types"])
