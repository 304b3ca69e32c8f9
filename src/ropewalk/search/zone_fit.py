"""`tune --search zones`: the best zones of a sweep, then the gradient; held against the best single table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ropewalk.map_files import MapFile, map_file
from ropewalk.position_maps import Zones
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.fit import Settings, State
from ropewalk.search.job import Job
from ropewalk.search.loop import OnPoint, Progress, measure, reason_to_keep_start, run_fit
from ropewalk.search.objective import Terms
from ropewalk.search.request import Request
from ropewalk.search.sweep import KEEP, Measured, sweep
from ropewalk.search.zones import ZoneFamily, offered

FILE = "zones.json"


@dataclass(frozen=True)
class FittedZones:
    """The map that was kept, what it came to on validation, and the single table that it is held against."""

    file: MapFile
    table: Terms
    after: Terms
    start: str
    kept_start: str | None


def fit_zones(
    job: Job,
    request: Request,
    settings: Settings,
    resumed: Callable[[ZoneFamily], Progress | None],
    on_point: OnPoint,
    keep: Callable[[Progress], None],
) -> tuple[FittedZones, Progress]:
    """Sweep zones on the one rung, validate the best few, fit from the best; `job.top` holds the best single table.

    Zones are chosen among those that find as many answers as the single table, where any do.
    """
    top = job.top
    table, single = top.start, top.before
    assert isinstance(table, FrequencySchedule)
    assert single is not None
    geometry = job.reader.rotation.geometry
    found = sweep(job.reader, offered(geometry, top.length), top.sweep_rows())[:KEEP]
    best = _best(
        [
            Measured(item.name, item.schedule, job.reader.terms(item.schedule, top.validation))
            for item in found
        ],
        single,
    )
    assert isinstance(best.schedule, Zones)
    config = job.reader.model.config.get_text_config()
    family = ZoneFamily.at(geometry, best.schedule, (config.num_hidden_layers, config.num_attention_heads))
    top.before = best.terms
    progress = resumed(family) or Progress(State.at(family), family, best.terms.value)
    try:
        run_fit(job, family, progress, request.budget, settings, on_point, keep)
    finally:
        top.before = single
    plan, after, why = best.schedule, best.terms, "no step of the fit beat it on validation"
    if progress.best_step:
        fitted = measure(job, top, progress.best)
        top.before = best.terms
        why = reason_to_keep_start(top, fitted) or ""
        top.before = single
        if not why:
            plan, after = _zones(progress.best), fitted
    about = {
        "by": "ropewalk tune --search zones",
        "model": request.model,
        "start": best.name,
        "kept_start": why or None,
        "objective": request.objective.to_json(),
        "seed": request.seed,
        "before": best.terms.to_json(),
        "after": after.to_json(),
        "single_table": {"name": top.start_name, **single.to_json()},
    }
    file = map_file(plan, geometry, top.length, about, nearest=table)
    return FittedZones(file, single, after, best.name, why or None), progress


def _best(measured: list[Measured], single: Terms) -> Measured:
    """The lowest J among those that find as much as the single table does, or as the best finder where none does."""
    wanted = min(_answers(single), max(_answers(item.terms) for item in measured))
    return min(
        (item for item in measured if _answers(item.terms) >= wanted), key=lambda item: item.terms.value
    )


def _answers(terms: Terms) -> float:
    return sum(sum(values) for values in terms.found.values())


def _zones(family: Any) -> Zones:
    assert isinstance(family, ZoneFamily)
    return family.zones()
