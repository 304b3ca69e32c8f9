"""What `tune` gives back, and the files that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class RungResult:
    """One factor: the schedule that was kept, what it started from, and both measured on the validation rows."""

    factor: float
    length: int
    start: str
    schedule: FrequencySchedule
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    controls: Mapping[str, Any]
    kept_start: str | None = None
    heads: FloatArray = field(default_factory=lambda: np.zeros(0))

    def to_json(self) -> dict[str, Any]:
        """Without the schedule, which has a file of its own."""
        return {
            "factor": self.factor,
            "length": self.length,
            "start": self.start,
            "before": dict(self.before),
            "after": dict(self.after),
            "controls": dict(self.controls),
            "kept_start": self.kept_start,
            "profile": self.schedule.profile.tolist(),
            "attention_factor": self.schedule.attention_factor,
            "temperatures": np.exp(self.heads).tolist(),
        }


@dataclass(frozen=True)
class TuneResult:
    """The highest rung's figures at the top, every rung's in `rungs`.

    `schedule` is the file for `extend --schedule`, `ladder` that of all rungs where there are several, `temperatures`
    that of layers or heads, which belongs to it and goes to `extend --temperature`, `map` that of fitted zones or
    tables of layers, beside which `schedule` is the best single table (`before` are its figures). `kept_start` says why
    a start was kept in the place of the fit; None where the fit won. `stopped` is why the fit ended.
    """

    model: str
    target_length: int
    factor: float
    schedule: Path
    ladder: Path | None
    search: str
    start: str
    kept_start: str | None
    stopped: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    controls: Mapping[str, Any]
    rungs: Sequence[RungResult]
    sweep: Sequence[Mapping[str, Any]]
    curve: Sequence[Mapping[str, Any]]
    steps: int
    passes: int
    seconds: float
    forward_equivalents: float
    text: str
    tasks: Sequence[str]
    remarks: Sequence[str]
    run: Path
    map: Path | None = None
    temperatures: Path | None = None
    complete: bool = True
    seed: int = 0
    objective: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document of `tune --json`."""
        return {
            "model": self.model,
            "target_length": self.target_length,
            "factor": self.factor,
            "schedule": str(self.schedule),
            "ladder": None if self.ladder is None else str(self.ladder),
            "map": None if self.map is None else str(self.map),
            "temperatures": None if self.temperatures is None else str(self.temperatures),
            "search": self.search,
            "start": self.start,
            "kept_start": self.kept_start,
            "stopped": self.stopped,
            "before": dict(self.before),
            "after": dict(self.after),
            "controls": dict(self.controls),
            "verdict": self.verdict(),
            "methods": self.rows(),
            "rungs": [rung.to_json() for rung in self.rungs],
            "sweep": [dict(row) for row in self.sweep],
            "curve": [dict(point) for point in self.curve],
            "steps": self.steps,
            "passes": self.passes,
            "seconds": round(self.seconds, 1),
            "forward_equivalents": round(self.forward_equivalents, 1),
            "text": self.text,
            "tasks": list(self.tasks),
            "objective": dict(self.objective),
            "remarks": list(self.remarks),
            "seed": self.seed,
            "complete": self.complete,
            "run": str(self.run),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The fit and its start as rows of a comparison, the fit first where it won."""
        # A sweep fits nothing: its start is its outcome.
        fitted = self.kept_start is None and self.search != "sweep"
        measured = {"tuned" if self.map is None else self.search: self.after} if fitted else {}
        rows = []
        for name, figures in (measured | {self.start: self.before}).items():
            loss = [{"length": self.target_length, "loss": figures["loss_at_target"]}]
            rows.append({**figures, "name": name, "loss_beyond_window": figures["loss"], "loss": loss})
        return rows

    def verdict(self) -> str:
        """In a sentence or two: what came of it, and where the model still stands behind cropping."""
        before, after = self.before["loss_at_target"], self.after["loss_at_target"]
        if self.kept_start is not None:
            words = f"{self.start} is kept: {self.kept_start}."
        elif self.map is not None:
            words = f"{self.search.capitalize()}: loss at the target {after:.3f} nats per token"
            words += f"; {before:.3f} by the best single table, {self.start}."
        elif self.search == "sweep":
            words = f"{self.start} is the best of the sweep: loss at the target {after:.3f}."
        else:
            words = f"From {self.start}, loss at the target {before:.3f} -> {after:.3f} nats per token."
        cropped = self.controls.get("cropped")
        if cropped is not None:
            if after < cropped:
                words += f" It is below cropping to the window ({cropped:.3f})."
            else:
                words += f" It does not reach cropping to the window ({cropped:.3f}) on this text."
        found, inside = self.after["retrieval_at_target"], self.controls.get("retrieval_in_window")
        if found is not None:
            words += f" It finds {found:.0%} of the planted answers at the target"
            words += "." if inside is None else f"; the model finds {inside:.0%} inside its window."
        return words
