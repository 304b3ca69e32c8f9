"""A recommendation before measurement: what it rests on, and that only measurement decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.geometry import RopeGeometry
from ropewalk.planning.options import Option

# Beyond this stretch no zero-shot method in the literature keeps retrieval.
_ZERO_SHOT_LIMIT = 8.0


@dataclass(frozen=True)
class Advice:
    """A method to begin with, and why. `keep` says that the model stays as it is."""

    label: str
    method: str
    factor: float
    parameters: dict[str, Any]
    why: str
    train: bool
    keep: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {
            "method": self.method,
            "label": self.label,
            "factor": self.factor,
            "parameters": self.parameters,
            "why": self.why,
            "fine_tune": self.train,
            "keep": self.keep,
        }


def keep(option: Option, why: str) -> Advice:
    """Leave the model as it is, with the reason."""
    return _of(option, why, train=False, keep=True)


def advise(geometry: RopeGeometry, target_length: int, options: Sequence[Option]) -> Advice:
    """The option to try first. Rests on published comparisons and the geometry, never on this model's behaviour."""
    factor = target_length / geometry.original_length
    by_label = {option.label: option for option in options}
    if factor <= 1.0:
        return keep(by_label["none"], "the target lies inside the window the model already has")
    train = factor > _ZERO_SHOT_LIMIT
    closing = (
        " Only measurement decides: `ropewalk compare` runs every method on your model beside the controls."
    )
    if train:
        limit = f"zero-shot rarely holds beyond {_ZERO_SHOT_LIMIT:g}"
        closing = f" A stretch of {factor:g} needs fine-tuning: {limit}.{closing}"
    turning = geometry.rotations[: geometry.num_rotating]
    if not np.any(turning < 1.0):
        why = (
            "every pair completes a turn inside the trained window, so no angle is new at any length; a changed base "
            "keeps neighbours apart where the window's own distances must still stretch."
        )
        # A single pair has no base to change.
        return _of(by_label.get("ntk", by_label["linear"]), why + closing, train=train)
    if "yarn, fitted betas" in by_label:
        why = (
            f"by-parts with a temperature leads zero-shot text comparisons, and in a window of "
            f"{geometry.original_length} few pairs turn 32 times, so the betas follow the geometry."
        )
        return _of(by_label["yarn, fitted betas"], why + closing, train=train)
    why = (
        "it leads published zero-shot comparisons on text and most runtimes carry it natively; for retrieval after "
        "fine-tuning, NTK and an adjusted base have measured better, so hold it against them."
    )
    return _of(by_label["yarn"], why + closing, train=train)


def _of(option: Option, why: str, *, train: bool, keep: bool = False) -> Advice:
    made = option.schedule
    return Advice(option.label, made.method, made.factor, made.settings, why, train, keep)
