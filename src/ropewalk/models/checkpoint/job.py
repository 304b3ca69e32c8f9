"""One extension as values: what was asked for, what stands ready to be written, what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ropewalk.errors import shown_command
from ropewalk.models.checkpoint import weights as weight_files
from ropewalk.models.checkpoint.manifest import MANIFEST
from ropewalk.models.defects.changes import Change
from ropewalk.models.facts import ModelFacts
from ropewalk.models.live.long_positions import AngleError, angle_errors
from ropewalk.models.source import Place
from ropewalk.models.stretch import Stretch
from ropewalk.models.writing.carrier import Carried
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Extended:
    """What `extend` wrote, or would write (`dry_run`). `repaired` names the findings that were mended, `changed` every
    value of config.json that is another one now; `schedule` is None for a repair alone."""

    output: Path | None
    schedule: FrequencySchedule | None
    target_length: int
    written_as: str
    weights: str
    files: tuple[str, ...]
    repaired: tuple[str, ...]
    changed: tuple[Change, ...]
    notes: tuple[str, ...]
    angle_errors: tuple[AngleError, ...]
    command: str
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document of `extend --json`."""
        made = self.schedule
        return {
            "output": None if self.output is None else str(self.output),
            "schedule": None
            if made is None
            else {
                "method": made.method,
                "factor": made.factor,
                "inv_freq": made.inv_freq.tolist(),
                "attention_factor": made.attention_factor,
                "original_length": made.geometry.original_length,
                "parameters": dict(made.parameters),
            },
            "target_length": self.target_length,
            "written_as": self.written_as,
            "weights": self.weights,
            "files": list(self.files),
            "repaired": list(self.repaired),
            "changed": [change.to_json() for change in self.changed],
            "dry_run": self.dry_run,
            "notes": list(self.notes),
            "angle_error": [error.to_json() for error in self.angle_errors],
            "command": self.command,
        }


class Finish(Protocol):
    """Called on the folder before its manifest is written: changes files there, and says what the manifest is to say.

    `name` is the value of --temperature in the command line that does the same.
    """

    @property
    def name(self) -> str:
        """What was asked for."""

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        """Do it."""


@dataclass(frozen=True)
class Request:
    """The arguments of `extend`, as given."""

    source: str | Path
    out: Path | None
    target: str | int | None
    factor: float | None
    method: str
    params: Mapping[str, Any]
    schedule: FrequencySchedule | str | Path | None
    weights: weight_files.Mode
    layers: str
    repair: bool
    replace: bool
    original_length: int | None
    draft: str | Path | None
    finish: Finish | None = None

    @property
    def stretches(self) -> bool:
        """Whether a stretch was asked for, and not a repair alone."""
        return self.target is not None or self.factor is not None or self.schedule is not None

    def command(self) -> str:
        """The command line that does the same again."""
        file = self.schedule
        if isinstance(file, FrequencySchedule):
            # An object has no file of its own, but the manifest of what was written holds it.
            file = (self.out or Path("OUT")) / MANIFEST
        return shown_command(
            "extend",
            self.source,
            target=self.target,
            factor=self.factor,
            # A repair alone stretches by no method, whatever the default says.
            method=self.method if file is None and (self.stretches or not self.repair) else None,
            p=[f"{name}={json.dumps(value)}" for name, value in self.params.items()],
            schedule=file,
            layers=None if self.layers == "full" else self.layers,
            weights=None if self.weights == "link" else self.weights,
            repair=self.repair,
            original_length=self.original_length,
            replace=self.replace,
            draft=self.draft,
            temperature=None if self.finish is None else self.finish.name,
            o=self.out,
        )


@dataclass(frozen=True)
class Ready:
    """Everything that is read and checked before the first file is written."""

    request: Request
    place: Place
    facts: ModelFacts
    config: Mapping[str, Any]
    carried: Carried | None
    made: Stretch | None
    weights: weight_files.WeightFiles | None
    repaired: tuple[str, ...]
    changed: tuple[Change, ...]
    notes: tuple[str, ...]


def result_of(
    ready: Ready,
    files: tuple[str, ...],
    weights: str,
    remarks: tuple[str, ...] = (),
    *,
    dry_run: bool = False,
) -> Extended:
    """The outcome of a request that stands ready, with the files that were written (or would be)."""
    made, carried = ready.made, ready.carried
    return Extended(
        output=ready.request.out,
        schedule=None if made is None else made.schedule,
        target_length=ready.facts.max_position_embeddings if made is None else made.target_length,
        written_as="" if carried is None else carried.entries[ready.facts.main].kind,
        weights=weights,
        files=files,
        repaired=ready.repaired,
        changed=ready.changed,
        # What a schedule says of itself comes from its reader and from its writer.
        notes=tuple(dict.fromkeys(ready.notes + (() if carried is None else carried.notes) + remarks)),
        angle_errors=() if made is None else tuple(angle_errors(made.schedule)),
        command=ready.request.command(),
        dry_run=dry_run,
    )
