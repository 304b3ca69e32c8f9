"""`tune`: fit a schedule to a model by measurement; a schedule file comes out that every command takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.evaluation.tasks.registry import find_kinds
from ropewalk.evaluation.work import fingerprints
from ropewalk.evaluation.work.processes import Processes
from ropewalk.models.defects.model import nothing_to_stretch
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.budget import DEFAULT, Budget, parse_budget
from ropewalk.search.family import Family
from ropewalk.search.fit import Settings, State
from ropewalk.search.folder import Folder, opened
from ropewalk.search.guard import Guard, reason_to_keep_start
from ropewalk.search.heads import TemperedFamily, check_temperatures
from ropewalk.search.job import Job, Rung, make_rungs, skilled_tasks
from ropewalk.search.loop import Point, Progress, measure, run_fit
from ropewalk.search.map_fit import INTERRUPTED, check_maps, fit_map
from ropewalk.search.objective import Objective, Terms, usual
from ropewalk.search.opponents import run_opponent
from ropewalk.search.reading import Reader
from ropewalk.search.request import MAP_SEARCHES, Request
from ropewalk.search.result import RungResult, TuneResult
from ropewalk.search.rows import TASKS, ZONE_TASKS, Amounts, gather
from ropewalk.search.sweep import Measured, at_factor, best_that_finds, candidates, finalists, sweep
from ropewalk.search.writing import point_words, provenance, start_of, write_for_report, write_schedules
from ropewalk.units import parse_target

# Where neither a target nor a ladder is given.
TARGET = "8x"
SEARCHES = ("fit", "sweep", *MAP_SEARCHES, "cma", "evolution")


@dataclass(frozen=True)
class Told:
    """Something to show while a search goes on: what is done now, how far (0 to 1), and the point just reached."""

    stage: str
    text: str
    share: float | None = None
    point: Point | None = None


OnTold = Callable[[Told], None]


def tune(
    source: str | Path | Any,
    *,
    target: str | int | None = None,
    ladder: Sequence[float] | None = None,
    text: str | Path | None = None,
    search: str = "fit",
    budget: str | int | Budget = DEFAULT,
    tasks: Sequence[str] | None = None,
    start: str | None = None,
    storage: str | None = None,
    temperatures: str = "one",
    output: str | Path | None = None,
    seed: int = 0,
    objective: Objective | None = None,
    amounts: Amounts | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    trust_remote_code: bool = False,
    checkpointing: bool | None = None,
    on_told: OnTold | None = None,
) -> TuneResult:
    """Fit a monotone stretch profile and one temperature to a frozen model, and write them as a schedule file.

    A sweep over closed forms and bands chooses the start (`start` names a method instead); then J, a weighted loss on
    text beyond the window, on text inside it and on planted answers (see `Objective`), is lowered by its gradient.
    Validation on other documents and other planted answers stops the fit and picks its best point. A fit that does not
    beat its start there, or finds fewer answers, gives the start back and says so. With `ladder` (factors such as
    (2, 4, 8)) one family of profiles is fitted for all of them; at factor 1 it is the model itself. With `temperatures`
    (`layers`, `heads`) the logits of each layer or head get a multiplier of their own, which weights can hold.

    Interrupted, it keeps the best so far; the same call with the same `output` goes on from there.
    """
    from ropewalk.models.facts import read_facts
    from ropewalk.models.load import load_model, load_tokenizer
    from ropewalk.models.stretch import refuse_stretched

    if search not in SEARCHES:
        raise UsageError(f"search={search!r} is unknown", hint=f"use one of {', '.join(SEARCHES)}")
    if storage is not None and search != "cma":
        raise UsageError(f"search={search} has no workers to share a storage", hint="use search=cma")
    if tasks is None:
        tasks = ZONE_TASKS if search == "zones" else TASKS
    tasks = find_kinds(tasks)
    processes = Processes.join(device)
    facts = read_facts(source)
    factors = _factors(target, ladder, facts.original_length)
    if search in MAP_SEARCHES:
        refuse_stretched(search, facts)
        if len(factors) > 1:
            raise UsageError(
                f"{search} are fitted for one target", hint="give --target in the place of --ladder"
            )
    check_temperatures(temperatures, search, factors)
    lengths = [round(factor * facts.original_length) for factor in factors]
    model = load_model(
        source, device=processes.device(device), dtype=dtype, attn=attn, trust_remote_code=trust_remote_code
    )
    request = Request(
        model=str(source),
        target_length=lengths[-1],
        factors=tuple(factors),
        text=None if text is None else str(text),
        search=search,
        budget=parse_budget(budget),
        tasks=tuple(tasks),
        seed=seed,
        dtype=str(model.dtype).removeprefix("torch."),
        start=start,
        storage=storage,
        temperatures=temperatures,
        objective=objective or usual(search),
        amounts=amounts or Amounts(),
    )
    tell = on_told or (lambda told: None)
    with Reader(model, checkpointing=checkpointing, processes=processes, temperatures=temperatures) as reader:
        if search in MAP_SEARCHES:
            check_maps(reader)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        with opened(request, output, processes) as run:
            return _tuned(request, run, reader, tokenizer, settings or Settings(), tell)


def _factors(target: str | int | None, ladder: Sequence[float] | None, original: int) -> list[float]:
    if ladder is None:
        factors = [parse_target(TARGET if target is None else target, original) / original]
    elif target is not None:
        raise UsageError(f"target={target} beside a ladder of factors", hint="give one or the other")
    else:
        factors = sorted({float(factor) for factor in ladder})
    if not all(map(math.isfinite, factors)):
        raise UsageError("a factor of the ladder is no number", hint="write 2,4,8")
    if not factors or factors[0] <= 1.0:
        raise UsageError(
            f"factor {factors[0] if factors else 1:g} stretches nothing",
            hint="give a --target beyond the window, or a --ladder of factors above 1",
        )
    return factors


def _tuned(
    request: Request, run: Folder, reader: Reader, tokenizer: Any, settings: Settings, tell: OnTold
) -> TuneResult:
    # Loading the model is not the search's time.
    began = time.monotonic()
    remarks: list[str] = []
    nothing = nothing_to_stretch(reader.rotation.facts, request.target_length)
    if nothing is not None:
        remarks.append(nothing)
    tell(Told("prepare", "reading text and making questions"))
    tasks, inside = skilled_tasks(reader, tokenizer, request.tasks, request.seed, remarks)
    lengths = [round(factor * reader.original_length) for factor in request.factors]
    material = gather(tokenizer, request.text, lengths, tasks, request.seed, request.amounts)
    remarks += material.remarks
    run.bind({"weights": fingerprints.of_weights(request.model), "text and questions": material.sha256})
    rungs = make_rungs(reader, material, request.factors, request.objective, inside)
    job = Job(reader, rungs, tasks, request.objective, remarks)
    kept = run.read("progress.json")
    swept = choose_start(job, request, run, tell)
    facts = _Facts(request, run, material.source, swept, began)
    if request.search in MAP_SEARCHES:
        return _tuned_map(job, facts, kept, settings, tell)
    family = Family.through([start_of(rung) for rung in rungs])
    if reader.layout is not None:
        family = TemperedFamily.at(family, reader.layout.count)
    if kept is not None:
        progress = Progress.from_json(family, kept)
        # What the interrupted call read counts too.
        reader.tokens += progress.curve[-1]["forward_equivalents"] * job.top.length if progress.curve else 0
    else:
        progress = Progress(State.at(family), family, start_value(job))
    if request.search == "sweep":
        progress.stopped = "the sweep is over"
        return _finished(job, facts, progress, family)

    on_point, keep = _told(facts, tell)
    try:
        if request.search == "fit":
            run_fit(job, family, progress, request.budget, settings, on_point, keep)
        else:
            run_opponent(request, job, progress, run, on_point)
    except KeyboardInterrupt:
        if reader.processes.world > 1:
            # Each process stops where it stands, so nothing can be measured together; what was kept goes on.
            raise
        tell(Told("stop", "interrupted: measuring the best so far"))
        progress.stopped = "interrupted"
        _finished(job, facts, progress, family, complete=False)
        raise
    return _finished(job, facts, progress, family)


def _tuned_map(
    job: Job, facts: _Facts, kept: dict[str, Any] | None, settings: Settings, tell: OnTold
) -> TuneResult:
    """A position map beside the best single table, which stays in schedule.json for stock programs."""
    tell(Told("sweep", facts.request.search))
    found, progress = fit_map(job, facts.request, settings, kept, *_told(facts, tell))
    facts.run.write_json(f"{facts.request.search}.json", found.file.to_json())
    top = job.top
    rung = RungResult(
        top.factor,
        top.length,
        top.start_name,
        start_of(top),
        found.table.to_json(),
        found.after.to_json(),
        top.controls,
    )
    if found.kept_start:
        job.remarks.append(f"{found.start} is kept: {found.kept_start}")
    complete = progress.stopped != INTERRUPTED
    result = _written(job, facts, progress, [rung], complete=complete)
    if not complete:
        raise KeyboardInterrupt
    return result


def _told(facts: _Facts, tell: OnTold) -> tuple[Callable[[Point], None], Callable[[Progress], None]]:
    """Who hears of a point, and who keeps the progress on disk."""

    def on_point(point: Point) -> None:
        share = facts.request.budget.share(point.step, point.seconds)
        tell(Told("fit", point_words(point), min(1.0, share), point))

    return on_point, lambda state: facts.run.write_json("progress.json", state.to_json())


@dataclass(frozen=True)
class _Facts:
    """What the result says beside the figures."""

    request: Request
    run: Folder
    text: str
    sweep: list[dict[str, Any]]
    began: float


def choose_start(job: Job, request: Request, run: Folder, tell: OnTold) -> list[dict[str, Any]]:
    """Sweep on the highest rung, validate the best few, and give every rung its start; what was swept, best first."""
    top = job.top
    geometry = job.reader.rotation.geometry
    kept = run.read("sweep.json")
    if kept is None:
        if request.start is not None:
            from ropewalk.methods import schedule

            made = schedule(request.start, geometry, factor=top.factor)
            found = [Measured(request.start, made, job.reader.terms(made, top.sweep_rows()))]
        else:
            offered = candidates(geometry, top.factor)

            def on_measured(name: str, terms: Terms, number: int, total: int) -> None:
                tell(Told("sweep", f"{name}: J {terms.value:.4f}", number / total))

            found = sweep(job.reader, offered, top.sweep_rows(), on_measured)
        kept = {
            "rows": [
                {"name": item.name, "schedule": item.schedule.to_json(), **item.terms.to_json()}
                for item in found
            ],
            "forward_equivalents": job.reader.tokens / top.length,
        }
        run.write_json("sweep.json", kept)
    else:
        job.reader.tokens += kept["forward_equivalents"] * top.length
    rows = kept["rows"]
    places = finalists([row["name"] for row in rows])
    best = [(rows[at]["name"], FrequencySchedule.from_json(rows[at]["schedule"])) for at in places]
    name, chosen = _validated(job, best, tell)
    for rung in job.rungs:
        rung.start_name = name
        # The top has its start from the validation above.
        if rung is not top:
            rung.start = at_factor(Measured(name, chosen, rung_terms(top)), rung.factor)
            rung.before = job.reader.terms(rung.start, rung.validation)
    return [{key: value for key, value in row.items() if key != "schedule"} for row in kept["rows"]]


def start_value(job: Job) -> float:
    """J of the start on validation, over all rungs: what the fit has to beat."""
    return sum(rung_terms(rung).value for rung in job.rungs) / len(job.rungs)


def rung_terms(rung: Rung) -> Terms:
    """What a rung's start was measured at."""
    assert rung.before is not None
    return rung.before


def _validated(
    job: Job, best: Sequence[tuple[str, FrequencySchedule]], tell: OnTold
) -> tuple[str, FrequencySchedule]:
    """The best of a few on the validation rows of the highest rung."""
    top = job.top
    measured = []
    for name, schedule in best:
        terms = job.reader.terms(schedule, top.validation)
        tell(Told("sweep", f"{name} on validation: J {terms.value:.4f}"))
        measured.append(Measured(name, schedule, terms))
    chosen = best_that_finds(measured, job.reader, top)
    assert isinstance(chosen.schedule, FrequencySchedule)
    top.start, top.before = chosen.schedule, chosen.terms
    return chosen.name, chosen.schedule


def _finished(
    job: Job, facts: _Facts, progress: Progress, start: Family, *, complete: bool = True
) -> TuneResult:
    """Measure the best on validation, guard it against the start, and write schedule, ladder and result."""
    request = facts.request
    rungs = []
    for rung in job.rungs:
        before = rung_terms(rung)
        if request.search == "sweep":
            made, after, why = start_of(rung), before, None
        elif progress.best_step == 0:
            made, after = start_of(rung), before
            why = "no step of the fit beat it on validation"
        else:
            after = measure(job, rung, progress.best)
            guard = Guard.of_start(job.reader, rung, start.reading(rung.factor))
            why = reason_to_keep_start(guard, progress.best.reading(rung.factor), after)
            made = progress.best.schedule(rung.factor, {"start": rung.start_name})
            if why is not None:
                made, after = start_of(rung), before
        rungs.append(
            RungResult(
                rung.factor,
                rung.length,
                rung.start_name,
                made,
                before.to_json(),
                after.to_json(),
                rung.controls,
                why,
                progress.best.extra if why is None else np.zeros(0),
            )
        )
    return _written(job, facts, progress, rungs, complete)


def _written(
    job: Job, facts: _Facts, progress: Progress, rungs: list[RungResult], complete: bool
) -> TuneResult:
    request, run, top = facts.request, facts.run, rungs[-1]
    files = write_schedules(
        run, job.reader.layout, progress, rungs, provenance(job, request, facts.text, progress, top)
    )
    result = TuneResult(
        model=request.model,
        target_length=request.target_length,
        factor=top.factor,
        schedule=files["schedule"],
        ladder=files.get("ladder"),
        temperatures=files.get("temperatures"),
        search=request.search,
        start=top.start,
        kept_start=top.kept_start,
        stopped=progress.stopped or "",
        before=top.before,
        after=top.after,
        controls=top.controls,
        rungs=rungs,
        sweep=facts.sweep,
        curve=progress.curve,
        steps=progress.state.step,
        passes=progress.passes,
        seconds=time.monotonic() - facts.began,
        forward_equivalents=job.reader.tokens / job.top.length,
        text=facts.text,
        tasks=job.tasks,
        remarks=job.remarks,
        map=Path(run.path) / f"{request.search}.json" if request.search in MAP_SEARCHES else None,
        run=Path(run.path),
        complete=complete,
        seed=request.seed,
        objective=request.objective.to_json(),
    )
    run.write_json("result.json", result.to_json())
    write_for_report(start_of(job.top), run, result)
    return result
