"""`extend`: a checkpoint with a longer window, written as configuration only; the weights are linked, never read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError, one_line, shown_command
from ropewalk.files import whole_folder, write_bytes, write_json, write_text
from ropewalk.models.carrier import Carried, carry
from ropewalk.models.checkpoint import companions
from ropewalk.models.checkpoint import weights as weight_files
from ropewalk.models.checkpoint.card import card_with
from ropewalk.models.checkpoint.manifest import write_manifest
from ropewalk.models.checkpoint.output import check_output
from ropewalk.models.config import read_config
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.repair import repaired_config
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live.long_positions import AngleError, angle_errors
from ropewalk.models.load import refuse_remote_code
from ropewalk.models.source import Place, locate
from ropewalk.models.stretch import Stretch, already_reaches, stretch_for
from ropewalk.models.structure.values import naming
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_bytes


@dataclass(frozen=True)
class Extended:
    """What `extend` wrote. `repaired` names the findings that were mended; `schedule` is None for a repair alone."""

    output: Path
    schedule: FrequencySchedule | None
    target_length: int
    written_as: str
    weights: str
    files: tuple[str, ...]
    repaired: tuple[str, ...]
    notes: tuple[str, ...]
    angle_errors: tuple[AngleError, ...]
    command: str

    def to_json(self) -> dict[str, Any]:
        """The document of `extend --json`."""
        made = self.schedule
        return {
            "output": str(self.output),
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
            "notes": list(self.notes),
            "angle_error": [error.to_json() for error in self.angle_errors],
            "command": self.command,
        }


def extend(
    source: str | Path,
    *,
    out: str | Path,
    target: str | int | None = None,
    factor: float | None = None,
    method: str = "yarn",
    params: Mapping[str, Any] | None = None,
    schedule: FrequencySchedule | str | Path | None = None,
    weights: weight_files.Mode = "link",
    layers: str = "full",
    force: bool = False,
    trust_remote_code: bool = False,
    repair: bool = False,
    replace: bool = False,
) -> Extended:
    """Write `source` with a longer window to the folder `out`; stock software loads it without any code of ours.

    Give `target` (tokens, `32k` or `8x`) or `factor`, both counted from the ORIGINAL window, or a finished `schedule`
    (an object, or the path of its JSON file). `weights` says how the weight files come along: `link` (hard links, a
    second and no space), `symlink`, `copy` or `none`. `repair=True` mends what `inspect` finds wrong in the
    configuration, keeps the original beside it, and needs no target. A model whose own scaling reaches the target
    is refused, since a new one would shorten it or change it for nothing; `replace=True` does so all the same. The
    folder appears whole or not at all; the source is never written to.
    """
    request = _Request(
        source,
        Path(out),
        target,
        factor,
        method,
        dict(params or {}),
        schedule,
        weights,
        layers,
        repair,
        replace,
    )
    place = _place(request)
    check_output(request.out, place.folder, force=force)
    refuse_remote_code(place.config, trust_remote_code)
    with naming(str(place.config)):
        ready = _ready(request, place)
    with whole_folder(request.out, force=force) as working:
        return _write(working, ready, with_code=trust_remote_code)


@dataclass(frozen=True)
class _Request:
    """The arguments of `extend`, as given."""

    source: str | Path
    out: Path
    target: str | int | None
    factor: float | None
    method: str
    params: Mapping[str, Any]
    schedule: FrequencySchedule | str | Path | None
    weights: weight_files.Mode
    layers: str
    repair: bool
    replace: bool

    @property
    def stretches(self) -> bool:
        """Whether a stretch was asked for, and not a repair alone."""
        return self.target is not None or self.factor is not None or self.schedule is not None

    def command(self) -> str:
        """The command line that does the same again."""
        file = self.schedule if isinstance(self.schedule, str | Path) else None
        return shown_command(
            "extend",
            self.source,
            target=self.target,
            factor=self.factor,
            method=self.method if file is None and (self.stretches or not self.repair) else None,
            p=[f"{name}={json.dumps(value)}" for name, value in self.params.items()],
            schedule=file,
            layers=None if self.layers == "full" else self.layers,
            weights=None if self.weights == "link" else self.weights,
            repair=self.repair,
            replace=self.replace,
            o=self.out,
        )


@dataclass(frozen=True)
class _Ready:
    """Everything that is read and checked before the first file is written."""

    request: _Request
    place: Place
    facts: ModelFacts
    config: Mapping[str, Any]
    carried: Carried | None
    made: Stretch | None
    weights: weight_files.WeightFiles | None
    repaired: tuple[str, ...]
    notes: tuple[str, ...]


def _place(request: _Request) -> Place:
    if request.weights not in weight_files.MODES:
        raise UsageError(
            f"weights={one_line(request.weights, 40)!r} is not a choice",
            hint=f"use {', '.join(weight_files.MODES)}",
        )
    place = locate(request.source)
    if request.weights == "none" or place.is_lone_file:
        return place
    return locate(request.source, need_weights=True)


def _ready(request: _Request, place: Place) -> _Ready:
    config = read_config(place.config)
    fixed, repaired = _repaired(config) if request.repair else (config, ())
    facts = read_facts(fixed)
    made, notes = _stretch(request, facts)
    carried = None
    if made is not None:
        carried = carry(fixed, made.schedule, target_length=made.target_length, layers=request.layers)
        _check_carried(carried.config, made.schedule)
    found = None
    if place.is_lone_file and request.weights != "none":
        notes += ("no weights beside the file: the configuration alone is written",)
    else:
        found = _find_weights(place.folder, request)
    return _Ready(request, place, facts, fixed, carried, made, found, repaired, notes)


def _find_weights(folder: Path, request: _Request) -> weight_files.WeightFiles | None:
    """The weight files, checked, with room for a copy checked too; None with `weights="none"`."""
    if request.weights == "none":
        return None
    found = weight_files.find_weights(folder)
    if request.weights == "copy":
        parent = next(path for path in request.out.absolute().parents if path.exists())
        free = shutil.disk_usage(parent).free
        if found.total_bytes > free:
            raise RopewalkError(
                f"the weights need {format_bytes(found.total_bytes)} and {parent} has {format_bytes(free)} free",
                hint="pass --weights link or symlink, or write elsewhere",
            )
    return found


def _repaired(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mended configuration and the ids of the findings that are gone; refuses when an error is left."""
    before = find(config)
    fixed = repaired_config(config, before)
    after = find(fixed)
    left = [finding for finding in after if finding.severity == "error"]
    if left:
        raise RopewalkError(
            f"{left[0].id}: {left[0].message}", hint=left[0].fix or "only its maker can say what was meant"
        )
    still = {finding.id for finding in after}
    return fixed, tuple(dict.fromkeys(finding.id for finding in before if finding.id not in still))


def _stretch(request: _Request, facts: ModelFacts) -> tuple[Stretch | None, tuple[str, ...]]:
    """What to write (None for a repair alone), and what the user should know about how it came about."""
    if request.repair and not request.stretches:
        return None, ()
    notes: tuple[str, ...] = ()
    if not request.repair:
        # Its window or base may be read wrongly because of a defect; that must not pass unseen.
        faults = [finding for finding in find(facts.config) if finding.severity == "error"]
        notes = tuple(f"inspect finds {fault.id}: {fault.message} (--repair mends first)" for fault in faults)
    method = None if request.schedule is not None else request.method
    made = stretch_for(
        facts,
        method,
        target=request.target,
        factor=request.factor,
        parameters=request.params,
        schedule=request.schedule,
    )
    reached = None if request.replace else already_reaches(facts, made.target_length)
    if reached is not None:
        raise RopewalkError(
            reached,
            hint="use the model as it is, ask for more, or pass --replace to write a shorter or another stretch",
        )
    return made, notes + made.notes


def _check_carried(config: Mapping[str, Any], made: FrequencySchedule) -> None:
    """Read the written configuration as stock software will, and compare: what was written must be what was meant."""
    rope = read_facts(config).rope
    same = rope.schedule is not None and np.allclose(
        rope.schedule.inv_freq, made.inv_freq, rtol=1e-9, atol=1e-25
    )
    if (
        not same
        or rope.schedule is None
        or abs(rope.schedule.attention_factor - made.attention_factor) > 1e-9
    ):
        raise RopewalkError(
            f"the configuration written for method {made.method!r} would not be read back as the same frequencies",
            hint="apply it in memory instead (ropewalk.apply), and please report the model type",
        )


def _write(working: Path, ready: _Ready, *, with_code: bool) -> Extended:
    """Everything that goes into OUT; the manifest last."""
    request, place, facts, carried = ready.request, ready.place, ready.facts, ready.carried
    made = None if ready.made is None else ready.made.schedule
    length = facts.max_position_embeddings if ready.made is None else ready.made.target_length
    entry = None if carried is None else carried.entries[facts.main]
    kind = "" if entry is None else entry.kind
    companions.check_inside(place.config, place.folder)
    write_json(working / companions.CONFIG, dict(ready.config) if carried is None else carried.config)
    if request.repair:
        write_bytes(working / f"{companions.CONFIG}.original", place.config.read_bytes())
    lengths = companions.Lengths(length, facts.max_position_embeddings)
    names = companions.copy_companions(place, working, lengths, with_code=with_code)
    if made is not None:
        base_card = place.folder / companions.CARD
        companions.check_inside(base_card, place.folder)
        card = card_with(base_card, str(request.source), made, length, request.command(), kind)
        write_text(working / companions.CARD, card)
    shards: list[str] = []
    mode, remarks = request.weights, tuple[str, ...]()
    if ready.weights is None:
        mode = "none"
    else:
        shards, mode, remarks = weight_files.bring_all(ready.weights, working, request.weights)
    result = Extended(
        output=request.out,
        schedule=made,
        target_length=length,
        written_as=kind,
        weights=mode,
        files=(companions.CONFIG, *names, *shards),
        repaired=ready.repaired,
        notes=ready.notes + (() if carried is None else carried.notes) + remarks,
        angle_errors=() if made is None else tuple(angle_errors(made)),
        command=request.command(),
    )
    write_manifest(
        working,
        place,
        {
            "source": str(request.source),
            "command": result.command,
            "schedule": None if made is None else made.to_json(),
            "target_length": length,
            "layers": request.layers,
            "repaired": list(ready.repaired),
            "weights": mode,
        },
    )
    return result
