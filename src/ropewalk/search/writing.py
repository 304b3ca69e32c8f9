"""What `tune` leaves in its run folder beside the result, and a point of its curve in words."""

from __future__ import annotations

import json
from typing import Any

from ropewalk.schedule import FrequencySchedule
from ropewalk.search.folder import Folder
from ropewalk.search.job import Job, Rung
from ropewalk.search.loop import Point, Progress
from ropewalk.search.request import Request
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


def write_for_report(start: FrequencySchedule, run: Folder, result: TuneResult) -> None:
    """What the report draws: both schedules for the profile, and the fit's curve."""
    top = result.rungs[-1]
    named = {top.start: start}
    if top.kept_start is None and result.search not in ("sweep", "zones"):
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
        better = "best so far" if point.detail.get("best") else "not better"
        found = point.detail.get("retrieval_at_target")
        answers = "" if found is None else f", answers found {found:.0%}"
        loss = point.detail.get("loss_at_target") or 0.0
        return f"step {point.step}: validation J {point.value:.4f} ({better}), loss at the target {loss:.4f}{answers}"
    return f"step {point.step}: J {point.value:.4f}"
