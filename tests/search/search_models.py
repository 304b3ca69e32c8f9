"""A tiny model for the tests of search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ropewalk
from ropewalk.search.rows import Amounts

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
import eval_models

WINDOW = 64


def make_model(kind: str = "llama", **changes: Any) -> Any:
    """Weights loud enough that frequencies matter."""
    return eval_models.tiny(kind, **({"std": 0.3, "max_position_embeddings": WINDOW} | changes))


def save_model(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A checkpoint with a byte tokenizer."""
    return eval_models.save(folder, make_model(kind, **changes))


def short_tune(model: Path, text: Path, output: Path, **changes: Any) -> Any:
    """A search from yarn over few rows, without planted answers: a random model finds none."""
    settings: dict[str, Any] = {"text": text, "start": "yarn", "tasks": (), "amounts": Amounts(4, 2, 2, 2)}
    return ropewalk.tune(model, output=output, device="cpu", **(settings | changes))
