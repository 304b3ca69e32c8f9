"""The searches without gradients, brought to the same frame: budget, progress on disk, validation, guard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.budget import Budget
from ropewalk.search.cma import Study, schedule_at, search_cma
from ropewalk.search.evolution import EvolutionSettings, Population, evolve, schedule_of
from ropewalk.search.family import Family
from ropewalk.search.folder import Folder
from ropewalk.search.guard import Guard
from ropewalk.search.job import Job
from ropewalk.search.loop import USED_UP, OnPoint, Point, Progress, seconds_since
from ropewalk.search.objective import Terms
from ropewalk.search.request import Request
from ropewalk.search.writing import start_of

# How many of the best are measured on validation.
FINALISTS = 3


def run_opponent(request: Request, job: Job, progress: Progress, run: Folder, on_point: OnPoint) -> None:
    """CMA-ES or LongRoPE's evolution on the one rung of a job; the best on validation ends in `progress`."""
    if len(job.rungs) > 1:
        raise UsageError(f"search={request.search} has no ladder", hint="use --search fit, or one --target")
    runner = _cma if request.search == "cma" else _evolution
    finalists = runner(request, job, progress, run, on_point)
    choose_finalist(job, progress, finalists, on_point)


def choose_finalist(
    job: Job, progress: Progress, finalists: Sequence[FrequencySchedule], on_point: OnPoint
) -> None:
    """The finalist with the lowest J on validation among those that keep the start's answers."""
    top = job.top
    guard = Guard.of_start(job.reader, top, start_of(top))
    for made in finalists:
        terms = job.reader.terms(made, top.validation)
        better = terms.value < progress.best_value and guard.lost(made, terms) is None
        if better:
            progress.best, progress.best_value = Family.through([made]), terms.value
            # 0 would say that no step beat the start.
            progress.best_step = max(1, progress.state.step)
        detail = {"best": better, **terms.to_json()}
        _point(job, progress, "validation", terms.value, on_point, detail)
    progress.stopped = progress.stopped or USED_UP


def _point(
    job: Job, progress: Progress, kind: str, value: float, on_point: OnPoint, detail: dict[str, Any]
) -> None:
    detail.pop("objective", None)
    point = Point(
        progress.state.step, kind, value, progress.seconds, job.reader.tokens / job.top.length, detail
    )
    progress.curve.append(point.to_json())
    on_point(point)


def _counting(job: Job, progress: Progress, budget: Budget) -> Callable[[int], bool]:
    began = time.monotonic() - progress.seconds

    def enough(count: int) -> bool:
        progress.state.step = count
        progress.seconds = seconds_since(job, began)
        return budget.share(count, progress.seconds) >= 1.0

    return enough


def _cma(
    request: Request, job: Job, progress: Progress, run: Folder, on_point: OnPoint
) -> list[FrequencySchedule]:
    top, rows = job.top, job.top.sweep_rows()

    def on_trial(number: int, terms: Terms | None) -> None:
        progress.state.step, progress.passes = number, progress.passes + len(rows)
        _point(job, progress, "step", math.inf if terms is None else terms.value, on_point, {})

    if job.reader.processes.world > 1:
        raise UsageError(
            "search=cma does not share rows between the processes of one launch",
            hint="start several workers by hand with the same --storage URL",
        )
    storage = request.storage or f"sqlite:///{run.path / 'trials.sqlite'}"
    study = Study(f"ropewalk-{request.seed}-{top.length}", storage, request.seed)
    enough = _counting(job, progress, request.budget)
    points = search_cma(job.reader, top.factor, rows, study, enough, on_trial)
    geometry = job.reader.rotation.geometry
    return [schedule_at(geometry, top.factor, point.numbers) for point in points[:FINALISTS]]


def _evolution(
    request: Request, job: Job, progress: Progress, run: Folder, on_point: OnPoint
) -> list[FrequencySchedule]:
    top, settings = job.top, EvolutionSettings(seed=request.seed)
    left = run.read("population.json")
    begun = None if left is None else Population.from_json(left)

    texts = [item.row for item in top.text]

    def keep(population: Population) -> None:
        run.write_json("population.json", population.to_json())
        progress.state.step = population.iteration
        # The first population is read whole; of every later one the parents were read before.
        born = settings.mutations + settings.crossovers if population.iteration else settings.population
        progress.passes += born * min(settings.texts, len(texts))
        loss = population.best.loss
        detail = {"kept_first": population.best.kept_first}
        _point(job, progress, "step", math.inf if loss is None else loss, on_point, detail)

    enough = _counting(job, progress, request.budget)
    found = evolve(job.reader, texts, top.factor, settings, keep, begun, enough)
    ranked = sorted(found.individuals, key=lambda item: math.inf if item.loss is None else item.loss)
    geometry = job.reader.rotation.geometry
    return [schedule_of(geometry, top.factor, item) for item in ranked[:FINALISTS]]
