"""Companion models of an export: found in the folder or named, stretched like their target, written beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.drafts import draft_folders, prediction_layers
from ropewalk.models.extend import extend
from ropewalk.models.source import locate
from ropewalk.runtimes.drafts import Draft, matched
from ropewalk.runtimes.export import ExportResult
from ropewalk.runtimes.reading import read_as


def companions_of(result: ExportResult, given: str | None, output: Path | None) -> list[Draft]:
    """Every companion of an exported model. With `output`, those that need a schedule get a folder there."""
    facts, schedule = result.job.facts, result.schedule
    try:
        sources = [str(path) for path in draft_folders(locate(result.source))]
    except RopewalkError:
        # A configuration that was handed over as a mapping has no folder to look into.
        sources = []
    if given is not None:
        sources.append(given)
    # A companion that was named may be one that was found as well.
    found = [matched(facts, schedule, result.target_length, source) for source in dict.fromkeys(sources)]
    if output is not None:
        found = [
            _written(draft, result, output / f"draft{number or ''}") for number, draft in enumerate(found)
        ]
    # They lie in the model's own file and read its entry, so nothing is written for them.
    heads = prediction_layers(facts)
    return found + [Draft(result.source, None, result.target_length, True, head) for head in heads]


def _written(draft: Draft, result: ExportResult, place: Path) -> Draft:
    """The companion as a checkpoint with its schedule, and what the programs will make of it."""
    if draft.schedule is None:
        return draft
    extend(draft.source, output=place, schedule=draft.schedule, target=draft.target_length)
    names = [exported.runtime for exported in result.exports]
    try:
        wrong = [seen for seen in read_as(place, names) if seen.answer.outcome != "exact"]
    except RopewalkError as error:
        return replace(draft, alike=False, detail=f"{draft.detail}; {one_line(error, 200)}")
    detail = f"{draft.detail}; written to {place}"
    if wrong:
        said = "; ".join(f"{seen.title}: {seen.answer.describe()}" for seen in wrong)
        return replace(draft, alike=False, detail=f"{detail}; as it stands there {said}")
    return replace(draft, detail=detail)
