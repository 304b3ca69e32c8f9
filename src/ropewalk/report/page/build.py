"""From run folders to a page as data: each run opened and checked, damaged ones named, several side by side."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.report.figure import Figure, NoDataError
from ropewalk.report.figures import KINDS
from ropewalk.report.page.content import (
    CONTENT,
    Cell,
    Column,
    Content,
    Table,
    Tone,
    Verdict,
    flattened,
    key_table,
    sentence,
    value_cell,
)
from ropewalk.report.sources import view_of_run
from ropewalk.report.views import RunView
from ropewalk.runs import StoredRun
from ropewalk.runs.index import find_run
from ropewalk.runs.unfinished import RUNNING, UNFINISHED, look_at_run
from ropewalk.units import format_bytes, format_duration

# Curves can be laid over each other; a grid of one run cannot be read through that of another.
_TOGETHER = ("loss-length", "loss-position", "training")


@dataclass(frozen=True)
class Problem:
    """A run that could not be read: its name, what is wrong, the way out."""

    run: str
    message: str
    hint: str
    damaged: bool


@dataclass(frozen=True)
class RunPart:
    """One run of the page: what was asked, what was done, what came out, how to do it again."""

    view: RunView
    status: str
    created: str
    duration: str
    command: str
    asked: Table
    done: Table
    files: Table
    content: Content
    traceback: str


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    title: str
    runs: tuple[RunPart, ...]
    problems: tuple[Problem, ...]
    beside: Table | None
    together: tuple[Figure, ...]
    differences: Table | None


def build(names: Sequence[str | Path], *, title: str | None = None) -> Page:
    """Read every run; those that cannot be read become problems, and the rest of the page is still made."""
    parts: list[RunPart] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for name in dict.fromkeys(str(name) for name in names):
        try:
            folder = find_run(name)
            # Two names may lead to one run: its id and its path.
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                parts.append(_part(look_at_run(folder)))
        except RopewalkError as error:
            problems.append(Problem(name, error.message, error.hint or "", isinstance(error, DamagedError)))
    views = [part.view for part in parts]
    several = len(parts) > 1
    return Page(
        title=title or _title(parts),
        runs=tuple(parts),
        problems=tuple(problems),
        beside=_beside(parts) if several else None,
        together=_together(views) if several else (),
        differences=_differences(parts) if several else None,
    )


def _title(parts: Sequence[RunPart]) -> str:
    if len(parts) < 2:
        return parts[0].view.subject if parts else "No readable run"
    models = list(dict.fromkeys(part.view.model for part in parts))
    kinds = list(dict.fromkeys(part.view.kind for part in parts))
    more = f" and {len(models) - 2} more" if len(models) > 2 else ""
    return f"{', '.join(models[:2])}{more}: {', '.join(kinds)}"


def _part(run: StoredRun) -> RunPart:
    view = view_of_run(run)
    # A folder may come from a newer version: what cannot be told is named, and the rest of the page is made.
    make = CONTENT.get(run.kind)
    if make is None:
        raise DamagedError(
            f"run {run.id} is of kind {run.kind!r}, unknown to this version", hint="update ropewalk"
        )
    content = (
        make(view)
        if view.result or view.metrics
        else Content(Verdict("This run holds no result.", tone="muted"))
    )
    error: Any = run.manifest.get("error")
    if run.status != "complete":
        content = _unfinished(run, content, error if isinstance(error, Mapping) else {})
    seconds = run.manifest.get("seconds")
    return RunPart(
        view=view,
        status=run.status,
        created=str(run.manifest["created"]),
        duration=format_duration(seconds) if isinstance(seconds, int | float) else "",
        command=_command(run),
        asked=_asked(run),
        done=_done(run),
        files=_files(run),
        content=content,
        traceback=str(error.get("traceback") or "") if isinstance(error, Mapping) else "",
    )


def _asked(run: StoredRun) -> Table:
    """The request; one that is a recipe and nothing else stands without that word before every row."""
    inner = run.request.get("recipe")
    if isinstance(inner, Mapping) and len(run.request) == 1:
        return key_table("What was asked", inner, f"{run.id}/manifest.json/request/recipe")
    return key_table("What was asked", run.request, f"{run.id}/manifest.json/request")


def _unfinished(run: StoredRun, content: Content, error: Mapping[str, Any]) -> Content:
    """A run that did not come to its end says so before what it still measured."""
    message = sentence(error.get("message") or "") or "It did not say why."
    # A run without a manifest has not failed as far as anybody knows: a process holds its lock, or none does.
    open_ended = {RUNNING: "This run is still going on.", UNFINISHED: "This run never ended."}
    headline = open_ended.get(run.status, "")
    if not headline:
        headline = f"This run {'was interrupted' if run.status == 'interrupted' else 'failed'}"
        headline += "." if run.status == "interrupted" and not error else f": {message}"
    hint = sentence(error["hint"]) if error.get("hint") else ""
    kept = () if content.verdict.tone == "muted" else (content.verdict.headline, *content.verdict.points)
    points = tuple(point for point in (hint, *kept) if point)
    tone: Tone = "" if run.status == RUNNING else "bad"
    return Content(Verdict(headline, points, tone), content.tiles, content.tables, content.figures)


def _command(run: StoredRun) -> str:
    """The recorded command line; for a run that Python started, the nearest one."""
    command = run.manifest.get("command")
    if isinstance(command, str) and command:
        return command
    request = run.request
    words = ["ropewalk", run.kind]
    words += [
        str(request[key])
        for key in ("model", "source", "path", "recipe")
        if isinstance(request.get(key), str)
    ][:1]
    if run.kind in ("compare", "tune") and (request.get("target") or request.get("target_length")):
        words += ["--target", str(request.get("target") or request.get("target_length"))]
    if run.kind == "eval" and isinstance(request.get("lengths"), list):
        words += ["--lengths", ",".join(str(length) for length in request["lengths"])]
    if run.manifest.get("seed"):
        words += ["--seed", str(run.manifest["seed"])]
    return f"# started from Python; the nearest command, the whole request stands above\n{shlex.join(words)}"


def _done(run: StoredRun) -> Table:
    manifest = run.manifest
    seconds = manifest.get("seconds")
    document: dict[str, Any] = {"run": run.id, "kind": run.kind, "status": run.status}
    document["started"] = manifest.get("created")
    if isinstance(seconds, int | float):
        document["duration"] = format_duration(seconds)
    document["seed"] = manifest.get("seed")
    versions = manifest.get("versions")
    if isinstance(versions, Mapping):
        document["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    hardware = manifest.get("hardware")
    if isinstance(hardware, Mapping):
        document["hardware"] = _hardware(hardware)
    return key_table("What was done", document, f"{run.id}/manifest.json")


def _hardware(hardware: Mapping[str, Any]) -> str:
    memory, found = hardware.get("memory_bytes"), hardware.get("accelerators")
    parts = [
        str(hardware.get("system") or ""),
        str(hardware.get("machine") or ""),
        f"{hardware.get('num_cpus')} processors",
        format_bytes(memory) if isinstance(memory, int | float) else "",
        ", ".join(map(str, found if isinstance(found, list) else ())) or "no accelerator",
    ]
    return ", ".join(part for part in parts if part)


def _files(run: StoredRun) -> Table:
    rows = tuple(
        (
            Cell(name, name),
            Cell(format_bytes(entry["bytes"]), entry["bytes"]),
            Cell(entry.get("sha256", "not yet"), entry.get("sha256", "")),
        )
        for name, entry in sorted(run.files.items())
    )
    columns = (Column("file", numeric=False), Column("size"), Column("SHA-256", numeric=False))
    ended = all("sha256" in entry for entry in run.files.values())
    note = "Each was checked against its hash when this page was made." if ended else "The run has not ended."
    return Table("Files of this run and their hashes", columns, rows, note, folded=True)


def _beside(parts: Sequence[RunPart]) -> Table:
    """Runs across; status, verdict and every leading number down."""
    labels = list(dict.fromkeys(tile.label for part in parts for tile in part.content.tiles))
    rows: list[tuple[Cell, ...]] = [
        (Cell("kind"), *(Cell(part.view.kind) for part in parts)),
        (Cell("about"), *(Cell(part.view.subject) for part in parts)),
        (Cell("status"), *(Cell(part.status) for part in parts)),
        (Cell("verdict"), *(Cell(part.content.verdict.headline) for part in parts)),
    ]
    for label in labels:
        found = [next((tile for tile in part.content.tiles if tile.label == label), None) for part in parts]
        cells = [
            Cell("–", tone="muted") if tile is None else Cell(tile.value, source=tile.source)
            for tile in found
        ]
        rows.append((Cell(label), *cells))
    return Table("Side by side", _run_columns(parts), tuple(rows))


def _differences(parts: Sequence[RunPart]) -> Table | None:
    """What was asked or used differently: requests, seeds, versions."""
    documents = [dict(flattened(part.view.request)) for part in parts]
    names = list(dict.fromkeys(name for document in documents for name in document))
    rows = []
    for name in names:
        values = [document.get(name) for document in documents]
        # What only one kind of run asks for says nothing beside another kind.
        if sum(name in document for document in documents) > 1 and any(
            value != values[0] for value in values
        ):
            rows.append((Cell(name.replace("_", " ")), *(value_cell(value) for value in values)))
    if not rows:
        return None
    return Table("What was asked differently", _run_columns(parts), tuple(rows))


def _run_columns(parts: Sequence[RunPart]) -> tuple[Column, ...]:
    return (Column("", numeric=False), *(Column(part.view.id, numeric=False) for part in parts))


def _together(views: Sequence[RunView]) -> tuple[Figure, ...]:
    """Figures in which at least two of the runs have a curve."""
    found = []
    for name in _TOGETHER:
        try:
            figure = KINDS[name].build(tuple(view for view in views if view.kind in KINDS[name].run_kinds))
        except NoDataError:
            continue
        # A curve of one run alone stands with that run already.
        if len({source.partition("/")[0] for source in figure.sources}) > 1:
            found.append(figure)
    return tuple(found)


def problem_line(problem: Problem) -> str:
    """A problem in one line for the terminal."""
    return f"{one_line(problem.run, 80)} is left out: {problem.message}" + (
        f": {problem.hint}" if problem.hint else ""
    )
