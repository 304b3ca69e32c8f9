"""The note that an extended configuration carries about where it came from.

Stock types such as a changed `rope_theta` or `linear` leave no trace of the original base and window, and a second
stretch must start from them. The note lives under one key that every reader of configurations ignores and keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import UsageError, one_line
from ropewalk.geometry import RopeGeometry, check_factor
from ropewalk.schedule import FrequencySchedule

RECORD = "ropewalk"
FORMAT = "ropewalk-config/1"
# What a person changes by hand: where one of these differs, the note is about an earlier file.
_WRITTEN = ("rope_type", "rope_theta", "factor")


@dataclass(frozen=True)
class Recorded:
    """What the note says about one entry: the original geometry, the stretch, the method and its parameters."""

    geometry: RopeGeometry
    factor: float
    method: str
    parameters: Mapping[str, Any]


def make_record(
    schedules: Mapping[str, FrequencySchedule], written: Mapping[str, Mapping[str, Any]], target_length: int
) -> dict[str, Any]:
    """The note for a configuration: per entry the original geometry, the method, and what was written for it."""
    return {
        "format": FORMAT,
        "target_length": target_length,
        "ropes": {
            label: {
                "method": schedule.method,
                "factor": schedule.factor,
                "parameters": _plain(schedule.parameters),
                "geometry": schedule.geometry.to_json(),
                "written": {name: written[label].get(name) for name in _WRITTEN},
            }
            for label, schedule in schedules.items()
        },
    }


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, flags and names; factor lists stand in the rotary entry itself."""
    return {name: value for name, value in parameters.items() if isinstance(value, bool | int | float | str)}


def note_on(config: Mapping[str, Any], label: str) -> Mapping[str, Any] | None:
    """The note about one entry as it stands in the file, whether or not it still fits."""
    note = config.get(RECORD)
    if not isinstance(note, Mapping) or note.get("format") != FORMAT:
        return None
    ropes = note.get("ropes")
    found = ropes.get(label) if isinstance(ropes, Mapping) else None
    return found if isinstance(found, Mapping) else None


def recorded(
    config: Mapping[str, Any], label: str, entry: Mapping[str, Any], max_length: int
) -> Recorded | None:
    """The note about one entry, if there is one that still fits what the file says."""
    found = note_on(config, label)
    if found is None or config[RECORD].get("target_length") != max_length:
        return None
    written = found.get("written")
    if not isinstance(written, Mapping) or any(written.get(name) != entry.get(name) for name in _WRITTEN):
        return None
    try:
        geometry = RopeGeometry.from_json(dict(found.get("geometry") or {}))
        factor = check_factor(found.get("factor"))
    except (UsageError, TypeError, ValueError):
        return None
    parameters = found.get("parameters")
    return Recorded(
        geometry,
        factor,
        one_line(found.get("method") or "", 60),
        _plain(parameters) if isinstance(parameters, Mapping) else {},
    )
