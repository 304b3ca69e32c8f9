"""The fit as a whole: steps, validation now and then, the best so far kept, and the reasons to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropewalk.search.budget import Budget
from ropewalk.search.family import Family
from ropewalk.search.fit import Settings, State, advance, step_slope
from ropewalk.search.guard import Guard
from ropewalk.search.job import Job, Rung
from ropewalk.search.objective import Terms
from ropewalk.search.reading import NonFiniteLossError

# How many validations a budget of steps has, how many in a row may fail, and how many steps lie between two where
# the budget is a time.
VALIDATIONS = 6
PATIENCE = 3
BETWEEN = 8
USED_UP = "the budget is used up"


@dataclass(frozen=True)
class Point:
    """One point of the curve: a step's J on its own rows, or a validation."""

    step: int
    kind: str
    value: float
    seconds: float
    forward_equivalents: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the trace."""
        return {
            "step": self.step,
            "kind": self.kind,
            "objective": self.value,
            "seconds": round(self.seconds, 2),
            "forward_equivalents": round(self.forward_equivalents, 1),
            **self.detail,
        }


@dataclass
class Progress:
    """Everything that a fit must remember to go on: kept on disk after each step."""

    state: State
    best: Family
    best_value: float
    best_step: int = 0
    bad: int = 0
    passes: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One document."""
        return {
            "state": self.state.to_json(),
            "best": self.best.to_json(),
            "best_value": self.best_value,
            "best_step": self.best_step,
            "bad": self.bad,
            "passes": self.passes,
            "seconds": self.seconds,
            "curve": self.curve,
            "stopped": self.stopped,
        }

    @classmethod
    def from_json(cls, start: Family, document: Mapping[str, Any]) -> Progress:
        """What `to_json` wrote."""
        return cls(
            State.from_json(start, document["state"]),
            start.from_json(start.geometry, document["best"]),
            float(document["best_value"]),
            int(document["best_step"]),
            int(document["bad"]),
            int(document["passes"]),
            float(document["seconds"]),
            list(document["curve"]),
            # The same call may come back with a larger budget.
            None if document["stopped"] == USED_UP else document["stopped"],
        )


OnPoint = Callable[[Point], None]
Keep = Callable[[Progress], None]


def run_fit(
    job: Job,
    start: Family,
    progress: Progress,
    budget: Budget,
    settings: Settings,
    on_point: OnPoint,
    keep: Keep,
) -> Progress:
    """Step until the budget is used up, validation stops it, or a loss is no number; `progress` is changed in place."""
    # A fit that goes on has used up a part of its budget already.
    began = time.monotonic() - progress.seconds
    top = job.top.length
    guards = [Guard.of_start(job.reader, rung, start.reading(rung.factor)) for rung in job.rungs]
    try:
        while progress.stopped is None:
            share = budget.share(progress.state.step, progress.seconds)
            if share >= 1.0:
                progress.stopped = USED_UP
                break
            # Rungs in turn, the highest first: it is the one that a short budget is asked for.
            rung = job.rungs[-1 - progress.state.step % len(job.rungs)]
            text, planted = rung.step_rows(progress.state.step // len(job.rungs), settings.most_pairs)
            slopes, rows = step_slope(job.reader, progress.state.family, rung.factor, text, planted, settings)
            progress.state = advance(progress.state, start, slopes, share, settings)
            progress.passes += rows
            progress.seconds = seconds_since(job, began)
            value = sum(slope.value for slope in slopes) / len(slopes)
            _tell(progress, "step", value, job.reader.tokens / top, on_point, factor=rung.factor)
            if _due(progress, budget):
                _validate(job, guards, progress, began, on_point)
            keep(progress)
    except NonFiniteLossError as error:
        progress.stopped = f"{error.message} after step {progress.state.step}: the best before it is kept"
        keep(progress)
    else:
        if progress.curve and progress.curve[-1]["kind"] != "validation":
            _validate(job, guards, progress, began, on_point)
        keep(progress)
    return progress


def seconds_since(job: Job, began: float) -> float:
    """The main process's clock in all of them, or a budget of time would end them at different steps."""
    return job.reader.processes.gather(time.monotonic() - began)[0]


def _due(progress: Progress, budget: Budget) -> bool:
    step = progress.state.step
    every = BETWEEN if budget.steps is None else max(1, -(-budget.steps // VALIDATIONS))
    return step % every == 0


def _validate(job: Job, guards: Sequence[Guard], progress: Progress, began: float, on_point: OnPoint) -> None:
    """Measure the running mean on the validation rows of every rung; the best so far is what has the lowest J
    among those that keep the start's answers."""
    try:
        found = [measure(job, rung, progress.state.mean) for rung in job.rungs]
    except NonFiniteLossError:
        # A point that cannot be measured is a bad one, and no reason to lose the best.
        progress.bad += 1
        return
    value = float(np.mean([terms.value for terms in found]))
    lower = value < progress.best_value
    # Whether answers are kept may take further questions, which only a lower J is worth.
    lost = [
        guard.lost(progress.state.mean.reading(rung.factor), terms)
        for guard, rung, terms in zip(guards, job.rungs, found, strict=True)
        if lower
    ]
    better = lower and not any(lost)
    if better:
        progress.best, progress.best_value, progress.best_step = (
            progress.state.mean,
            value,
            progress.state.step,
        )
    else:
        progress.state = progress.state.back_to(progress.best)
    progress.bad = 0 if better else progress.bad + 1
    progress.seconds = seconds_since(job, began)
    _tell(
        progress,
        "validation",
        value,
        job.reader.tokens / job.top.length,
        on_point,
        best=better,
        lost_answers=next(filter(None, lost), None),
        **found[-1].to_json() | {"objective": value},
    )
    if progress.bad >= PATIENCE:
        progress.stopped = f"validation did not improve {PATIENCE} times in a row"


def measure(job: Job, rung: Rung, family: Family) -> Terms:
    """A family's schedule for a rung on its validation rows."""
    return job.reader.terms(family.reading(rung.factor), rung.validation)


def _tell(
    progress: Progress, kind: str, value: float, passes: float, on_point: OnPoint, **detail: Any
) -> None:
    point = Point(progress.state.step, kind, value, progress.seconds, passes, detail)
    progress.curve.append(point.to_json())
    on_point(point)
