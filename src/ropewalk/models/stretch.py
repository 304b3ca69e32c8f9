"""What a stretch was asked to be, turned into a schedule for one model: the single answer for every command.

    stretch_for(facts, "yarn", target="32k")            a method, with `parameters` if any
    stretch_for(facts, "ntk", factor=8)
    stretch_for(facts, schedule="fitted.json")          a finished schedule: an object, or a file
    stretch_for(facts, schedule="ladder.json", target="64k")    the lowest rung of a ladder that reaches the target
    own_stretch(facts)                                  the scaling that the model's file holds already
    kept_parameters(facts)                              what a new stretch keeps of it, by method
    already_reaches(facts, tokens)                      why nothing needs stretching, or None
    own_window(facts)                                   tokens that the model serves as its file has it
    read_schedules(path)                                the schedules of a file, lowest factor first

Each of the first two returns a `Stretch`: `.schedule`, the `.target_length` to declare, and `.notes` for the user.
Targets and factors count from the ORIGINAL window, whatever the file holds today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.files import read_json
from ropewalk.geometry import RopeGeometry
from ropewalk.map_files import MAP_FORMAT, MapFile, read_map
from ropewalk.methods import find_method
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.values import shown
from ropewalk.schedule import FORMAT, FrequencySchedule
from ropewalk.units import format_length, parse_target

LADDER_FORMAT = "ropewalk-ladder/1"
_WRITE_AGAIN = "write it again, with FrequencySchedule.to_json or `ropewalk tune`"


@dataclass(frozen=True)
class Stretch:
    """A schedule for a model, the window to declare with it, and what the user should know about how it came about."""

    schedule: FrequencySchedule
    target_length: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScheduleFile:
    """The schedules of a file, lowest factor first: one, or a ladder's rungs. `fitted` says how they were made."""

    path: Path
    rungs: tuple[FrequencySchedule, ...]
    fitted: Mapping[str, Any] | None
    is_ladder: bool

    def reaching(self, factor: float | None) -> FrequencySchedule:
        """The lowest rung of at least `factor`, the highest one where nothing is asked for."""
        if factor is None:
            return self.rungs[-1]
        # A target over the window may come out a hair above the factor of its own rung.
        found = next((rung for rung in self.rungs if rung.factor >= factor * (1 - 1e-9)), None)
        if found is None:
            raise UsageError(
                f"{self.path}: its ladder ends at factor {self.rungs[-1].factor:g}, below the {factor:g} asked for",
                hint="ask for less, or add a rung",
            )
        return found


def stretch_for(
    facts: ModelFacts,
    method: str | None = None,
    *,
    target: str | int | None = None,
    factor: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    schedule: FrequencySchedule | ScheduleFile | str | Path | None = None,
) -> Stretch:
    """The schedule that was asked for, on the model's original geometry.

    Give a method with `target` (tokens, `32k` or `8x`), `factor`, or both where the declared window should differ
    from factor times the original; or a finished `schedule`, which leaves nothing to choose but a ladder's rung. A
    new stretch by a method keeps what the file's own scaling sets for that method (YaRN's betas) unless `parameters`
    say otherwise. UsageError names a schedule that was made for another geometry.
    """
    length = None if target is None else parse_target(target, facts.original_length)
    replaced = _replaced(facts)
    if schedule is not None:
        made = _finished(facts, schedule, length, factor, parameters)
        beyond = []
        if length is not None and length > made.target_length:
            beyond.append(
                f"the window declared, {format_length(length)}, is beyond the "
                f"{format_length(made.target_length)} that the schedule is made for"
            )
        return Stretch(made, length or made.target_length, (*replaced, *beyond, *made.notes))
    if method is None:
        raise UsageError(
            "a stretch without a method",
            hint="name one (`ropewalk methods` lists them), or give a finished schedule",
        )
    given = find_method(method).checked(dict(parameters or {}))
    if factor is None:
        if length is None:
            raise UsageError(
                "nothing says how far to stretch",
                hint="give a target (--target 32k) or a factor (--factor 8)",
            )
        factor = length / facts.original_length
    kept = {name: value for name, value in _kept(facts, method).items() if name not in given}
    made = make_schedule(method, facts.geometry, factor=factor, **(kept | given))
    notes = [*replaced, *_kept_note(method, kept), *made.notes]
    if made.is_identity:
        notes.append(f"factor {made.factor:g} by {method} changes no frequency: nothing is stretched")
    return Stretch(made, length or made.target_length, tuple(notes))


def own_stretch(facts: ModelFacts) -> Stretch:
    """The scaling that the model's file holds, for its declared window; RopewalkError where it holds none."""
    if facts.rope.schedule is None or not facts.rope.is_scaled:
        reason = facts.rope.problem or "its configuration asks for no scaling"
        raise RopewalkError(
            f"no stretch in the file: {reason}", hint="give --method with --factor or --target"
        )
    return Stretch(facts.rope.schedule, facts.max_position_embeddings, facts.rope.schedule.notes)


def kept_parameters(facts: ModelFacts) -> dict[str, dict[str, Any]]:
    """By method, the parameters that a new stretch keeps of the file's own scaling."""
    kept = _kept(facts, facts.rope.rope_type)
    return {facts.rope.rope_type: kept} if kept else {}


def already_reaches(facts: ModelFacts, target_length: int) -> str | None:
    """In words, that the model's own scaling reaches `target_length`; None where a stretch has something to do."""
    rope = facts.rope
    if not rope.is_scaled:
        return None
    reach = own_window(facts)
    # A scaling that raises no window (a factor of 1 with a temperature) reaches nowhere.
    if target_length > reach or reach <= facts.original_length:
        return None
    return (
        f"it already reaches {format_length(target_length)}: the file stretches {format_length(facts.original_length)} "
        f"to {format_length(reach)} tokens ({shown(rope.rope_type)}, factor {rope.factor:g})"
    )


def own_window(facts: ModelFacts) -> int:
    """Tokens that the model serves as its file has it: the original window, or what the file stretches it to."""
    rope = facts.rope
    if not rope.is_scaled:
        return facts.original_length
    reach = facts.max_position_embeddings
    if reach <= facts.original_length and rope.schedule is not None:
        # Some types leave the window at its original length and let the factor speak.
        reach = rope.schedule.target_length
    return reach


def read_schedules(path: str | Path) -> ScheduleFile:
    """The schedule of a file, or the rungs of a ladder; DamagedError names a file that holds neither.

    A schedule stands in the file as `FrequencySchedule.to_json` wrote it, or under the key `schedule` of another
    document of ours (a checkpoint's ropewalk.json, a result of `tune`).
    """
    path = Path(path)
    document = read_json(path, hint=_WRITE_AGAIN)
    if not isinstance(document, Mapping):
        raise DamagedError(f"{path} holds {shown(document)}, not a schedule", hint=_WRITE_AGAIN)
    fitted = document.get("fitted")
    provenance = fitted if isinstance(fitted, Mapping) else None
    if document.get("format") == MAP_FORMAT:
        raise UsageError(
            f"{path} holds a position map, which no table of frequencies can carry and stock programs do not know",
            hint="use generate, eval or compare with it; for a checkpoint give the schedule that stands beside it",
        )
    if document.get("format") == LADDER_FORMAT:
        return ScheduleFile(path, _rungs(path, document.get("rungs")), provenance, is_ladder=True)
    inner = document.get("schedule")
    if document.get("format") != FORMAT and isinstance(inner, Mapping):
        document = inner
        provenance = inner["fitted"] if isinstance(inner.get("fitted"), Mapping) else provenance
    return ScheduleFile(path, (_schedule(path, document),), provenance, is_ladder=False)


def map_for_model(path: str | Path, facts: ModelFacts) -> MapFile:
    """The position map of a file, for the model that it was made from; UsageError for another geometry."""
    found = read_map(path)
    _check_geometry(str(path), found.geometry, facts)
    refuse_stretched(str(path), facts)
    return found


def refuse_stretched(map_name: str, facts: ModelFacts) -> None:
    """Refuse a position map on a model that is stretched already: its distances are not those of training."""
    if facts.rope.is_scaled:
        raise UsageError(
            f"{map_name} keeps distances inside the window that training showed, and this model's is stretched already",
            hint="use a schedule, or the model before it was stretched",
        )


def ladder_document(
    rungs: Sequence[FrequencySchedule], fitted: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A ladder as `read_schedules` reads it: one schedule a factor, in rising order."""
    ordered = sorted(rungs, key=lambda rung: rung.factor)
    document: dict[str, Any] = {
        "format": LADDER_FORMAT,
        "rungs": [{"factor": rung.factor, "schedule": rung.to_json()} for rung in ordered],
    }
    return document if fitted is None else document | {"fitted": dict(fitted)}


def _rungs(path: Path, rungs: object) -> tuple[FrequencySchedule, ...]:
    if not isinstance(rungs, list) or not rungs or not all(isinstance(rung, Mapping) for rung in rungs):
        raise DamagedError(f"{path}: the ladder has no rungs", hint=_WRITE_AGAIN)
    found = [_schedule(path, rung.get("schedule")) for rung in rungs]
    # Said twice in the file: where the two differ somebody changed one of them.
    if any(rung.get("factor") != made.factor for rung, made in zip(rungs, found, strict=True)):
        raise DamagedError(f"{path}: a rung's factor is not that of its schedule", hint=_WRITE_AGAIN)
    if len({made.factor for made in found}) != len(found) or len({made.geometry for made in found}) != 1:
        raise DamagedError(
            f"{path}: the rungs of a ladder share one geometry and differ in factor", hint=_WRITE_AGAIN
        )
    return tuple(sorted(found, key=lambda made: made.factor))


def _schedule(path: Path, document: Any) -> FrequencySchedule:
    try:
        return FrequencySchedule.from_json(document)
    except RopewalkError as error:
        raise DamagedError(f"{path}: {error.message}", hint=error.hint) from error


def _finished(
    facts: ModelFacts,
    given: FrequencySchedule | ScheduleFile | str | Path,
    length: int | None,
    factor: float | None,
    parameters: Mapping[str, Any] | None,
) -> FrequencySchedule:
    found = read_schedules(given) if isinstance(given, str | Path) else given
    ladder = isinstance(found, ScheduleFile) and found.is_ladder
    if parameters or (factor is not None and not ladder):
        raise UsageError(
            "a finished schedule leaves nothing to choose: factor or parameters were given too",
            hint="give either a schedule, or a method with factor and parameters",
        )
    if isinstance(found, FrequencySchedule):
        made, name = found, "the schedule"
    else:
        # A single schedule serves any target; that one lies beyond it is said, not refused.
        asked = factor if factor is not None or length is None else length / facts.original_length
        made, name = found.reaching(asked if ladder else None), str(found.path)
    _check_geometry(name, made.geometry, facts)
    return made


def _check_geometry(name: str, one: RopeGeometry, facts: ModelFacts) -> None:
    other = facts.geometry
    # To the bit: the stretch is a ratio to this very base, and a nearly equal one gives another.
    if one != other:
        raise UsageError(
            f"{name} was made for another geometry (original_length={one.original_length}, "
            f"rope_theta={one.rope_theta:g}, {one.half_dim} pairs) than the model's "
            f"(original_length={other.original_length}, rope_theta={other.rope_theta:g}, {other.half_dim} pairs)",
            hint="make it from this model, or from ropewalk.read_geometry(model)",
        )


def _kept(facts: ModelFacts, method: str) -> dict[str, Any]:
    """What the file's own scaling sets for a method: YaRN's betas and mscales. Its attention factor belongs to the
    old factor."""
    rope = facts.rope
    if method != "yarn" or rope.rope_type != "yarn" or rope.schedule is None:
        return {}
    return {name: value for name, value in rope.schedule.parameters.items() if name != "attention_factor"}


def _replaced(facts: ModelFacts) -> list[str]:
    if not facts.rope.is_scaled:
        return []
    return [
        f"the model is already scaled ({facts.rope.rope_type}, factor {facts.rope.factor:g}): the new stretch "
        f"replaces it and counts from the original {facts.original_length} tokens"
    ]


def _kept_note(method: str, kept: Mapping[str, Any]) -> list[str]:
    """What is kept, less what the method would do anyway."""
    told = find_method(method).unusual(kept)
    values = ", ".join(f"{name}={told[name]}" for name in sorted(told))
    return [f"kept from the model's own scaling: {values}"] if told else []
