"""What `train` was called with, and the names inside a run folder. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ropewalk.training.progress import Progress
from ropewalk.training.recipe.recipe import Recipe

CHECKPOINTS = "checkpoints"
RUN = "run.json"
# (model, step) -> numbers for the metrics
Evaluate = Callable[[Any, int], dict[str, float] | None]


@dataclass(frozen=True)
class Settings:
    """What `train` was called with."""

    recipe: Recipe
    resume: bool
    allow_changes: bool
    evaluate: Evaluate | None
    device: str
    progress: Progress
