"""`tune --search zones` and `layers`: the best of a sweep over maps, then the gradient; held against the best table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.map_files import MapFile, map_file
from ropewalk.methods import schedule as make_schedule
from ropewalk.position_maps import LayerTables, Zones
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.fit import Settings, State
from ropewalk.search.guard import Guard, reason_to_keep_start
from ropewalk.search.job import Job
from ropewalk.search.layers import LayerFamily
from ropewalk.search.loop import OnPoint, Progress, measure, run_fit
from ropewalk.search.map_family import MapFamily
from ropewalk.search.objective import Terms, surely_fewer
from ropewalk.search.reading import Reader
from ropewalk.search.request import Request
from ropewalk.search.sweep import KEEP, Measured, sweep
from ropewalk.search.zones import ZoneFamily, offered

# The fit among the rows that are chosen from.
FITTED = "fitted"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class FittedMap:
    """The map that was kept, what it came to on validation, and the single table that it is held against."""

    file: MapFile
    table: Terms
    after: Terms
    start: str
    kept_start: str | None


def check_maps(reader: Reader) -> None:
    """Refuse a model that no map can serve, before anything is searched: one short text under its own frequencies."""
    geometry = reader.rotation.geometry
    own = LayerTables.of(make_schedule("none", geometry, factor=1.0), _shape(reader)[0])
    reader.read(own, [np.zeros(geometry.original_length + 1, dtype=np.int64)])


def fit_map(
    job: Job,
    request: Request,
    settings: Settings,
    kept: dict[str, Any] | None,
    on_point: OnPoint,
    keep: Callable[[Progress], None],
) -> tuple[FittedMap, Progress]:
    """Sweep maps on the one rung, validate the best few, fit from the lowest J; `job.top` holds the best single table.

    What is kept, the fit or one of the few, is chosen among those that find as many answers as the single table, where
    any do. The start is not: a fit of single heads wins back answers that its start loses. `kept` is where a fit that
    goes on stood.
    """
    top = job.top
    table, single = top.start, top.before
    assert isinstance(table, FrequencySchedule)
    assert single is not None
    geometry = job.reader.rotation.geometry
    rows = [
        Measured(name, plan, job.reader.terms(plan, top.validation))
        for name, plan in _starts(job, request.search, table)
    ]
    start = min(rows, key=lambda item: item.terms.value)
    family = _family(job, start.schedule, table)
    # While it runs the fit is held against its own start; against the single table it is chosen later.
    top.before = start.terms
    progress = Progress(State.at(family), family, start.terms.value)
    if kept is not None:
        progress = Progress.from_json(family, kept)
    try:
        try:
            run_fit(job, family, progress, request.budget, settings, on_point, keep)
        except KeyboardInterrupt:
            # Each process stops where it stands, so nothing can be measured together any more.
            if job.reader.processes.world > 1:
                raise
            # Whoever called writes the best so far, and then stops.
            progress.stopped = INTERRUPTED
        why = _why_not(job, family, progress, rows)
    finally:
        top.before = single
    best = finds_like_the_table(rows, single)
    kept_start = None if best.name == FITTED else why or "the fit finds fewer answers"
    assert isinstance(best.schedule, Zones | LayerTables)
    came_from = start.name if kept_start is None else best.name
    about = {
        "by": f"ropewalk tune --search {request.search}",
        "model": request.model,
        "start": came_from,
        "kept_start": kept_start,
        "objective": request.objective.to_json(),
        "seed": request.seed,
        "before": start.terms.to_json(),
        "after": best.terms.to_json(),
        "single_table": {"name": top.start_name, **single.to_json()},
    }
    file = map_file(best.schedule, geometry, top.length, about, nearest=table)
    return FittedMap(file, single, best.terms, came_from, kept_start), progress


def _starts(job: Job, search: str, table: FrequencySchedule) -> list[tuple[str, Zones | LayerTables]]:
    """The maps that a fit may start from: the best few zones of a sweep, or the single table in every layer."""
    top = job.top
    if search == "layers":
        return [(top.start_name, LayerTables.of(table, _shape(job.reader)[0]))]
    maps = offered(job.reader.rotation.geometry, top.length)
    found = sweep(job.reader, maps, top.sweep_rows())[:KEEP]
    return [(item.name, item.schedule) for item in found if isinstance(item.schedule, Zones)]


def _family(job: Job, plan: Any, table: FrequencySchedule) -> MapFamily:
    """The family that starts at a map."""
    if isinstance(plan, Zones):
        return ZoneFamily.at(job.reader.rotation.geometry, plan, _shape(job.reader))
    return LayerFamily.at(table, _shape(job.reader)[0])


def _shape(reader: Reader) -> tuple[int, int]:
    """Layers, and heads in each."""
    facts = reader.rotation.facts
    return facts.num_layers, facts.num_attention_heads


def _why_not(job: Job, start: MapFamily, progress: Progress, rows: list[Measured]) -> str | None:
    """Why the fit is none of the rows that are chosen from; None where it has become one."""
    if not progress.best_step:
        return "no step of the fit beat it on validation"
    fitted = measure(job, job.top, progress.best)
    factor = job.top.factor
    guard = Guard.of_start(job.reader, job.top, start.reading(factor))
    why = reason_to_keep_start(guard, progress.best.reading(factor), fitted)
    if why is None:
        assert isinstance(progress.best, MapFamily)
        rows.append(Measured(FITTED, progress.best.plan(), fitted))
    return why


def finds_like_the_table(measured: list[Measured], single: Terms) -> Measured:
    """The lowest J among those that find as much as the single table does within noise, or as the best finder."""
    most = max(item.terms.answers for item in measured)
    finding = [item for item in measured if not surely_fewer(single, item.terms)]
    return min(
        finding or [item for item in measured if item.terms.answers == most],
        key=lambda item: item.terms.value,
    )
