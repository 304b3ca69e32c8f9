"""The note that an extended configuration carries about where it came from.

Stock types such as a changed `rope_theta` or `linear` leave no trace of the original base and window, and a second
stretch must start from them. The note lives under one key that every reader of configurations ignores and keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.models.values import is_number, is_whole
from ropewalk.schedule import FrequencySchedule

RECORD = "ropewalk"
FORMAT = "ropewalk-config/1"


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
                "original_length": schedule.geometry.original_length,
                "rope_theta": schedule.geometry.rope_theta,
                "written": {name: written[label].get(name) for name in ("rope_type", "rope_theta")},
            }
            for label, schedule in schedules.items()
        },
    }


def recorded(
    config: Mapping[str, Any], label: str, entry: Mapping[str, Any], max_length: int
) -> dict[str, Any] | None:
    """The note about one entry, if there is one that still fits what the file says."""
    note = config.get(RECORD)
    if (
        not isinstance(note, Mapping)
        or note.get("format") != FORMAT
        or note.get("target_length") != max_length
    ):
        return None
    ropes = note.get("ropes")
    found = ropes.get(label) if isinstance(ropes, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    written = found.get("written")
    if not isinstance(written, Mapping) or any(
        written.get(name) != entry.get(name) for name in ("rope_type", "rope_theta")
    ):
        return None
    factor, theta, original = found.get("factor"), found.get("rope_theta"), found.get("original_length")
    usable = (
        is_number(factor)
        and factor >= 1
        and is_number(theta)
        and theta > 1
        and is_whole(original)
        and original >= 1
    )
    if not usable or not isinstance(found.get("method"), str):
        return None
    return {
        "method": found["method"],
        "factor": float(factor),
        "rope_theta": float(theta),
        "original_length": int(original),
    }
