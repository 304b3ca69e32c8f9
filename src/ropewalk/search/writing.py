"""What `tune` leaves in its run folder beside the result, and a point of its curve in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropewalk.schedule import FrequencySchedule
from ropewalk.search.folder import Folder
from ropewalk.search.heads import HeadLayout
from ropewalk.search.job import Job, Rung
from ropewalk.search.loop import Point, Progress
from ropewalk.search.request import MAP_SEARCHES, Request
from ropewalk.search.result import RungResult, TuneResult


def start_of(rung: Rung) -> FrequencySchedule:
    """What a rung's search starts from, once the sweep has chosen it."""
    assert rung.start is not None
    return rung.start


def provenance(job: Job, request: Request, text: str, progress: Progress, top: RungResult) -> dict[str, Any]:
    """What a schedule file says about where it comes from."""
    return {
        "by": "ropewalk tune",
        "model": request.model,
        "search": request.search,
        "start": top.start,
        "kept_start": top.kept_start,
        "text": text,
        "tasks": job.tasks,
        "objective": request.objective.to_json(),
        "seed": request.seed,
        "steps": progress.state.step,
        "best_step": progress.best_step,
        "before": dict(top.before),
        "after": dict(top.after),
        "controls": dict(top.controls),
    }


def write_schedules(
    run: Folder,
    layout: HeadLayout | None,
    progress: Progress,
    rungs: Sequence[RungResult],
    fitted: Mapping[str, Any],
) -> dict[str, Path]:
    """The schedule of the highest rung, and where they belong to it a ladder and temperatures; the files by name."""
    from ropewalk.models.stretch import ladder_document

    top = rungs[-1]
    found = {"schedule": run.path / "schedule.json"}
    schedule = top.schedule
    # An interrupted call may have left temperatures that the fit has given up since.
    run.remove("temperatures.json")
    if layout is not None and top.heads.size:
        made = layout.file(top.heads, top.factor, fitted)
        found["temperatures"] = run.path / "temperatures.json"
        run.write_json("temperatures.json", made.to_json())
        note = f"fitted together with {found['temperatures']}, which goes to --temperature"
        schedule = replace(schedule, notes=(*schedule.notes, note))
    run.write_json("schedule.json", schedule.to_json() | {"fitted": fitted})
    if len(rungs) > 1:
        found["ladder"] = run.path / "ladder.json"
        own = {
            **fitted,
            "family": None if any(rung.kept_start for rung in rungs) else progress.best.to_json(),
            "rungs": [
                {"factor": rung.factor, "before": dict(rung.before), "after": dict(rung.after)}
                for rung in rungs
            ],
        }
        run.write_json("ladder.json", ladder_document([rung.schedule for rung in rungs], own))
    return found


def write_for_report(start: FrequencySchedule, run: Folder, result: TuneResult) -> None:
    """What the report draws: both schedules for the profile, and the fit's curve."""
    top = result.rungs[-1]
    named = {top.start: start}
    if top.kept_start is None and result.search not in ("sweep", *MAP_SEARCHES):
        named["tuned"] = top.schedule
    for name, made in named.items():
        run.write_json(
            f"parts/{'tuned' if name == 'tuned' else 'start'}.json",
            {"name": name, "schedule": made.to_json()},
        )
    lines = [
        {
            "kind": "evaluation" if point["kind"] == "validation" else "train",
            "step": point["step"],
            "loss": point["objective"],
        }
        for point in result.curve
    ]
    run.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def point_words(point: Point) -> str:
    """For a line of progress."""
    if point.kind == "validation":
        lost = point.detail.get("lost_answers")
        worse = "not better" if lost is None else f"lower, but finds fewer answers, {lost}"
        better = "best so far" if point.detail.get("best") else worse
        found = point.detail.get("retrieval_at_target")
        answers = "" if found is None else f", answers found {found:.0%}"
        loss = point.detail.get("loss_at_target") or 0.0
        return f"step {point.step}: validation J {point.value:.4f} ({better}), loss at the target {loss:.4f}{answers}"
    return f"step {point.step}: J {point.value:.4f}"
