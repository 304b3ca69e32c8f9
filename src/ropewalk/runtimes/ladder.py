"""Factor by need: one profile a factor, so that short prompts do not pay for long ones.

A static stretch costs every prompt something, whatever its length. A ladder is the same model served once a factor
(1 is the model as it was), and a rule that sends each prompt to the lowest rung that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.files import whole_folder, write_json
from ropewalk.geometry import whole_tokens
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.config import read_config
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.stretch import ScheduleFile, stretch_for
from ropewalk.runtimes.export import ExportResult, export_config
from ropewalk.runtimes.registry import find_runtime
from ropewalk.runtimes.writing import ROUTER, check_folder, materials_for, write_export
from ropewalk.schedule import FrequencySchedule

FIRST_PORT = 8001


@dataclass(frozen=True)
class Rung:
    """One profile: prompts of up to `up_to` tokens, reply included, go to the server on `port`."""

    factor: float
    up_to: int
    port: int
    result: ExportResult

    @property
    def command(self) -> str | None:
        """The launch line of this rung on its own port; None for programs without one."""
        launch = self.result.exports[0].launch
        return (
            # Ollama's line makes a model and starts no server; its own serves all of them on one port.
            None if launch is None or launch.startswith(("ollama", "cd ")) else f"{launch} --port {self.port}"
        )

    def to_json(self) -> dict[str, Any]:
        """One rung, for people's routers."""
        return {
            "factor": self.factor,
            "up_to_tokens": self.up_to,
            "port": self.port,
            "command": self.command,
            "schedule": self.result.schedule.to_json(),
        } | {name: value for name, value in self.result.exports[0].to_json().items() if name != "command"}


@dataclass(frozen=True)
class Ladder:
    """The rungs of one program, lowest factor first, and what it means there."""

    runtime: str
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...]

    @property
    def router(self) -> tuple[str, ...]:
        """Which prompt goes where, a line a rung."""
        lines = []
        for rung in self.rungs:
            lines.append(
                f"prompt and reply of up to {rung.up_to} tokens -> factor {rung.factor:g}, port {rung.port}"
            )
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """The document of `export --ladder --json`."""
        return {
            "runtime": self.runtime,
            "rungs": [rung.to_json() for rung in self.rungs],
            "router": list(self.router),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Output:
    """Where the rungs' files go, from which GGUF file or type where the program wants one; `force` replaces."""

    folder: Path
    gguf: str | Path | None = None
    gguf_type: str = "auto"
    force: bool = False


def export_ladder(
    source: str | Path,
    method: str | ScheduleFile,
    factors: Sequence[float],
    *,
    to: str,
    parameters: dict[str, Any] | None = None,
    allow_approximate: bool = False,
    output: Output | None = None,
) -> Ladder:
    """One profile a factor for one program; with `output` each is written to OUT/xFACTOR, and OUT/router.json says
    which prompt length goes where."""
    program, facts = find_runtime(to), read_facts(read_config(source))
    wanted = sorted(set(factors))
    if len(wanted) < 2 or wanted[0] < 1.0 or not all(math.isfinite(factor) for factor in wanted):
        raise UsageError(
            f"a ladder of {', '.join(f'{factor:g}' for factor in factors) or 'nothing'} leads nowhere",
            hint="give two factors or more, each at least 1: --ladder 1,2,4,8",
        )
    rungs = []
    for number, factor in enumerate(wanted):
        made = _schedule(facts, method, factor, parameters or {})
        result = export_config(source, made, to=program.name, allow_approximate=allow_approximate)
        up_to = whole_tokens(factor * facts.original_length, math.floor)
        rungs.append(Rung(factor, up_to, FIRST_PORT + number, result))
    two_sets = any(rung.result.schedule.short_inv_freq is not None for rung in rungs)
    notes = [f"{program.title}: {program.two_sets}"] if two_sets else []
    if program.output == "folder":
        notes.append("one checkpoint a rung; their weights are links to the same bytes")
    if output is not None:
        return _write(Ladder(program.name, tuple(rungs), tuple(notes)), source, output)
    return Ladder(program.name, tuple(rungs), tuple(notes))


def _schedule(
    facts: ModelFacts, method: str | ScheduleFile, factor: float, parameters: dict[str, Any]
) -> FrequencySchedule:
    """A rung's schedule; at factor 1 the model as it was."""
    if factor == 1.0:
        return make_schedule("none", facts.geometry, factor=1.0)
    if isinstance(method, ScheduleFile):
        if not method.is_ladder:
            raise UsageError(
                f"{method.path} holds one schedule, not a ladder", hint="give --method, or a ladder file"
            )
        found = next((rung for rung in method.rungs if math.isclose(rung.factor, factor)), None)
        if found is None:
            have = ", ".join(f"{rung.factor:g}" for rung in method.rungs)
            raise RopewalkError(f"{method.path} has no rung of factor {factor:g}", hint=f"it has {have}")
        return found
    return stretch_for(facts, method, factor=factor, parameters=parameters).schedule


def _write(ladder: Ladder, source: str | Path, output: Output) -> Ladder:
    """Every rung's files and the router, whole or not at all."""
    out = output.folder
    materials = materials_for(source, ladder.rungs[0].result.exports, output.gguf, "link", output.gguf_type)
    check_folder(out, materials, force=output.force)
    written = []
    with whole_folder(out, force=output.force) as working:
        for rung in ladder.rungs:
            name = f"x{rung.factor:g}"
            result = write_export(rung.result, materials, working / name, final=out / name)
            written.append(Rung(rung.factor, rung.up_to, rung.port, result))
        done = replace(ladder, rungs=tuple(written))
        write_json(working / ROUTER, done.to_json())
    return done
