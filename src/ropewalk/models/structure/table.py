"""What is known of model types: their classes' defaults, and what some of them do otherwise than the rest.

`architectures.json` is what a configuration class says where its config.json is silent (written by
`tools/make_architectures.py`); `quirks.json` is written by hand, and says what each of its traits means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def _document(name: str = "architectures.json") -> dict[str, Any]:
    text = files("ropewalk.models.structure").joinpath(name).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def quirk(model_type: str, trait: str) -> Any:
    """A trait of a model type (`quirks.json` lists and explains them); None where the type is like the rest."""
    document = _document("quirks.json")
    # A trait without its line of explanation is a slip of ours, not of a user.
    assert trait in document["traits"], trait
    return document["types"].get(model_type, {}).get(trait)


def transformers_version() -> str:
    """The release of transformers that the table was read from."""
    return str(_document()["transformers"])


def rows() -> Mapping[str, dict[str, Any]]:
    """The rows of all model types."""
    found: dict[str, dict[str, Any]] = _document()["types"]
    return found


def row_of(model_type: object) -> dict[str, Any] | None:
    """The row of a model type, or None for a type that this table does not know."""
    return rows().get(model_type) if isinstance(model_type, str) else None
