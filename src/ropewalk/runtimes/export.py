"""`ropewalk.export_config`: a schedule for a model in every program's own words, with what each will make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.stretch import ScheduleFile, Stretch, own_stretch, stretch_for
from ropewalk.runtimes.answer import Answer, answer, job_for
from ropewalk.runtimes.base import Fragment, Job
from ropewalk.runtimes.nearest import Nearest, nearest
from ropewalk.runtimes.registry import find_runtime, runtimes
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Exported:
    """One program's part: the answer, what to write, the nearest exact choices where it is not exact, the files."""

    runtime: str
    title: str
    answer: Answer
    fragment: Fragment | None
    nearest: Nearest | None = None
    files: tuple[str, ...] = ()
    command: str | None = None

    @property
    def launch(self) -> str | None:
        """The line that starts the program, over the files where any were written."""
        return self.command or (None if self.fragment is None else self.fragment.command)

    def to_json(self) -> dict[str, Any]:
        """One entry of `export --json`."""
        made = self.fragment
        return {
            "runtime": self.runtime,
            "title": self.title,
            "status": self.answer.outcome,
            **{name: value for name, value in self.answer.to_json().items() if name != "outcome"},
            "nearest": None if self.nearest is None else self.nearest.describe(),
            "where": None if made is None else made.where,
            "content": {} if made is None else dict(made.content),
            "notes": [] if made is None else list(made.notes),
            "command": self.launch,
            "files": list(self.files),
        }


@dataclass(frozen=True)
class ExportResult:
    """A schedule, the window declared with it, and every program's part."""

    source: str
    schedule: FrequencySchedule
    target_length: int
    job: Job
    exports: tuple[Exported, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, runtime: str) -> Exported:
        return next(made for made in self.exports if made.runtime == find_runtime(runtime).name)

    def to_json(self) -> dict[str, Any]:
        """The document of `export --json`; with one program its keys stand at the top level too."""
        document: dict[str, Any] = {
            "source": self.source,
            "target_length": self.target_length,
            "schedule": self.schedule.to_json(),
            "exports": [made.to_json() for made in self.exports],
            "notes": list(self.notes),
        }
        if len(self.exports) == 1:
            document |= {name: value for name, value in document["exports"][0].items() if name != "notes"}
        return document


def export_config(
    source: str | Path | Mapping[str, Any],
    method: str | FrequencySchedule | ScheduleFile | None = None,
    *,
    factor: float | None = None,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
    to: str | Sequence[str] | None = None,
    layers: str = "full",
    allow_approximate: bool = False,
) -> ExportResult:
    """A model's stretch by a method, as each program wants it written. Nothing is written here.

    Give `factor`, or `target` (32768, "32k", "8x"), or both when the window should differ from factor times the
    original. `method` may be a ready schedule; without one, the scaling that the file already carries is translated.
    `to` names the programs. A program that was named and does not carry the schedule exactly on this architecture
    raises RopewalkError with the nearest exact choices, unless `allow_approximate`.
    """
    facts = read_facts(source)
    found = stretch_of(facts, method, factor=factor, target=target, parameters=parameters)
    job = job_for(facts, found.schedule, target_length=found.target_length, layers=layers)
    names = [to] if isinstance(to, str) else to
    wanted = list(runtimes()) if names is None else [find_runtime(name).name for name in names]
    made = tuple(describe(job, name) for name in dict.fromkeys(wanted))
    # A GGUF file may still hold what config.json cannot.
    if job.carried is None and not any(entry.answer.exact for entry in made):
        raise RopewalkError(
            job.refusal or "config.json cannot hold it", hint="apply it in memory: ropewalk.apply"
        )
    if names is not None and not allow_approximate:
        refuse(made)
    name = str(source) if not isinstance(source, Mapping) else facts.text_type
    return ExportResult(
        name, found.schedule, found.target_length, job, made, found.notes + _left_alone(facts, job)
    )


def stretch_of(
    facts: ModelFacts,
    method: str | FrequencySchedule | ScheduleFile | None,
    *,
    factor: float | None = None,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Stretch:
    """The stretch that was asked for, or the one in the file where nothing was."""
    if method is None and factor is None and target is None and not parameters:
        return own_stretch(facts)
    named = method if method is None or isinstance(method, str) else None
    ready = None if named is not None or method is None else method
    return stretch_for(
        facts,
        named,
        target=target,
        factor=factor,
        parameters=parameters,
        schedule=None if isinstance(ready, str) else ready,
    )


def describe(job: Job, name: str) -> Exported:
    """One program's answer, its fragment, and the nearest exact choices where it is not exact."""
    program = find_runtime(name)
    found = answer(program, job)
    fragment = None if found.way is None else program.fragment(job, found.way)
    near = None if found.exact else nearest(job, program)
    return Exported(program.name, program.title, found, fragment, near)


def refuse(exports: Sequence[Exported]) -> None:
    """RopewalkError for the programs that would compute something else, or may."""
    wrong = [made for made in exports if not made.answer.exact]
    if not wrong:
        return
    first = wrong[0]
    said = "; ".join(
        f"{made.title} on {made.answer.architecture}: {made.answer.describe()}" for made in wrong
    )
    near = "" if first.nearest is None else first.nearest.describe()
    allow = "--allow-approximate writes it all the same"
    raise RopewalkError(f"not exact: {said}", hint=f"{near}; {allow}" if near else allow)


def with_files(made: Exported, files: Sequence[str], command: str | None) -> Exported:
    """The same part after its files were written."""
    return replace(made, files=tuple(files), command=command)


def _left_alone(facts: ModelFacts, job: Job) -> tuple[str, ...]:
    carried = () if job.carried is None else job.carried.entries
    others = [label for label in facts.ropes if label not in carried]
    if job.carried is None or not others:
        return ()
    return (f"{', '.join(others)} keeps its own frequencies (--layers all changes them too)",)
