"""The tuned schedule as a row of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.files import as_path
from ropewalk.search.budget import Budget
from ropewalk.search.tune import tune


def tuned_candidate(
    model: str | Path,
    *,
    target: str | int,
    budget: str | int | Budget,
    output: str | Path | None,
    **options: Any,
) -> Candidate:
    """Tune the model for a target and hand the schedule on as a candidate named `tuned`.

    `output` is the run folder of the search: one that is finished is read and not repeated. `options` are those of
    `tune`. Where the fit did not beat its start, the candidate is that start, under this name.
    """
    from ropewalk.models.stretch import read_schedules

    file = None if output is None else as_path(output, "output") / "schedule.json"
    if file is None or not _finished(file.parent):
        file = tune(model, target=target, budget=budget, output=output, **options).schedule
    return scheduled("tuned", read_schedules(file).rungs[-1], variant="file", file=str(file))


def _finished(folder: Path) -> bool:
    from ropewalk.runs.store import MANIFEST, read_manifest

    return (folder / MANIFEST).is_file() and read_manifest(folder)["status"] == "complete"
