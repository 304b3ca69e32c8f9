"""The first rows of a run, as text with what is scored: what the model will see, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.training.data.mixture import mixture_of
from ropewalk.training.data.stages import Curriculum
from ropewalk.training.data.streams import Sample
from ropewalk.training.model.build import build_tokenizer
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.recipe.recipe import Recipe


@dataclass(frozen=True)
class ShownRow:
    """One row: its documents, and its text in pieces with the loss weight of each."""

    length: int
    documents: tuple[str, ...]
    scored: int
    padding: int
    pieces: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The row as `train --show --json` gives it."""
        return {
            "length": self.length,
            "documents": list(self.documents),
            "scored": self.scored,
            "padding": self.padding,
            "pieces": [{"text": text, "weight": weight} for text, weight in self.pieces],
        }


def preview(recipe: Recipe | dict[str, Any] | str | Path, rows: int) -> list[ShownRow]:
    """The first `rows` rows that a recipe trains, in the order of its steps. No model is loaded."""
    checked = read_recipe(recipe)
    tokenizer = build_tokenizer(checked.model)
    mixture = mixture_of(checked, tokenizer)
    curriculum = Curriculum(checked, lambda: mixture.tokens_per_epoch)
    mixture.share(checked.stages[0].sources)
    shown: list[ShownRow] = []
    step = 0
    while len(shown) < rows:
        for length in curriculum.plan(step)[: rows - len(shown)]:
            shown.append(_shown(mixture.take(length), tokenizer))
        step += 1
    return shown


def _shown(sample: Sample, tokenizer: Any) -> ShownRow:
    # The padding behind documents is numbered as one more of them, which has no name.
    padded = int((sample.documents >= len(sample.names)).sum())
    end = len(sample) - padded
    # A piece ends where the weight or the document changes.
    changes = (np.diff(sample.weights[:end]) != 0) | (np.diff(sample.documents[:end]) != 0)
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), end]
    pieces = [
        (tokenizer.decode(sample.ids[low:high].tolist()), float(sample.weights[low]))
        for low, high in pairwise(cuts)
        if high > low
    ]
    return ShownRow(len(sample), sample.names, int((sample.weights > 0).sum()), padded, tuple(pieces))
