"""From what a user names to what figures read: a model's config to a `ModelView`, a run's folder to a `RunView`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.plan import shape_of
from ropewalk.planning.shape import ModelShape
from ropewalk.report.views import DEFAULT_METHODS, ModelView, RunView, model_view
from ropewalk.runs import StoredRun
from ropewalk.runs.index import subject
from ropewalk.runs.unfinished import METRICS
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import parse_target


def view_of_model(
    source: str | Path,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> ModelView:
    """Geometry, sizes and schedules of a model from its config.json alone; torch is never imported."""
    facts = read_facts(source)
    length = None if target is None else parse_target(target, facts.original_length)
    return model_view(
        _name_of(source),
        facts.geometry,
        methods=methods,
        target_length=length,
        parameters=parameters,
        shape=_shape(facts),
    )


def view_of_run(run: StoredRun) -> RunView:
    """The documents of a checked run. A run that failed before its result has an empty one."""
    result = run.read_json() if run.has("result.json") else {}
    return RunView(
        id=run.id,
        kind=run.kind,
        subject=subject(run.request) or run.id,
        request=run.request,
        result=result if isinstance(result, Mapping) else {},
        metrics=_json_lines(run.path / METRICS) if run.has(METRICS) else (),
        schedules=_schedules(run),
        status=run.status,
    )


def _schedules(run: StoredRun) -> dict[str, FrequencySchedule]:
    """The schedules that a comparison kept beside its scores, by the name of the candidate."""
    found: dict[str, FrequencySchedule] = {}
    for name in run.files:
        if not (name.startswith("parts/") and name.endswith(".json")):
            continue
        document = run.read_json(name)
        if isinstance(document, Mapping) and isinstance(document.get("schedule"), Mapping):
            found[str(document.get("name"))] = FrequencySchedule.from_json(document["schedule"])
    return found


def _json_lines(path: Path) -> list[Mapping[str, Any]]:
    """Every whole line; a last line that a kill cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, Mapping):
            found.append(document)
    return found


def _name_of(source: str | Path) -> str:
    path = Path(source)
    if path.name == "config.json":
        # Every model's file is called config.json; its folder has the model's name.
        return path.resolve().parent.name
    return path.resolve().name if path.is_dir() else str(source)


def _shape(facts: ModelFacts) -> ModelShape | None:
    """The sizes that memory depends on; None where the config leaves out one of them."""
    if facts.intermediate_size is None or facts.vocab_size is None:
        return None
    return shape_of(facts)
