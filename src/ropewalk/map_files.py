"""A position map as a file, and the single table of frequencies that comes nearest to it.

A map is code at attention time. Stock programs read one table of frequencies, so wherever a map is written the nearest
table stands beside it. Numpy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import DamagedError, RopewalkError, UsageError, one_line
from ropewalk.files import read_json
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.methods import schedule as make_schedule
from ropewalk.methods.build import temperature
from ropewalk.position_maps import AnyMap, DualChunk, Grouped, LayerTables, PositionMap, ReRoPE, Zones
from ropewalk.schedule import FrequencySchedule

MAP_FORMAT = "ropewalk-map/1"
NEAREST = "nearest-table"
_KINDS: dict[str, type[PositionMap] | type[DualChunk] | type[LayerTables]] = {
    "zones": Zones,
    "self-extend": Grouped,
    "dpe": Grouped,
    "rerope": ReRoPE,
    "leaky-rerope": ReRoPE,
    "dual-chunk": DualChunk,
    "layers": LayerTables,
}
_HEADS = ("head_log_discount", "head_far_logits", "head_sharpness")
# Distances and frequencies that are tried for the nearest table.
_DISTANCES, _STEPS = 512, 97


@dataclass(frozen=True)
class MapFile:
    """A map, what it was made for, and the nearest single table. `fitted` says how its numbers were found."""

    plan: AnyMap
    geometry: RopeGeometry
    target_length: int
    nearest: FrequencySchedule
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that `read_map` reads."""
        return {
            "format": MAP_FORMAT,
            "map": self.plan.to_json(),
            "geometry": self.geometry.to_json(),
            "target_length": self.target_length,
            # Not as `schedule`, which commands take for the thing itself: a map is not its table.
            "nearest_table": self.nearest.to_json(),
            "fitted": dict(self.fitted),
        }


def is_map(path: str | Path) -> bool:
    """Whether a file holds a map; one that cannot be read is left to whoever reads it for its message."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    # RecursionError is what the parser raises for brackets nested too deep.
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, Mapping) and document.get("format") == MAP_FORMAT


def read_map(path: str | Path) -> MapFile:
    """The map of a file; DamagedError where it holds none."""
    document = read_json(Path(path), hint="write it again")
    if not isinstance(document, Mapping) or document.get("format") != MAP_FORMAT:
        raise DamagedError(
            f"{path} holds no position map", hint="give what `ropewalk tune --search zones` or `layers` wrote"
        )
    try:
        made = MapFile(
            _plan(document["map"]),
            RopeGeometry.from_json(document["geometry"]),
            int(document["target_length"]),
            FrequencySchedule.from_json(document["nearest_table"]),
            dict(document.get("fitted") or {}),
        )
        window = made.plan.limit if isinstance(made.plan, DualChunk) else made.plan.original_length
        if window != made.geometry.original_length:
            raise UsageError(
                f"the map's window of {window} is not its geometry's {made.geometry.original_length}", hint=""
            )
        return made
    except (KeyError, TypeError, ValueError, RopewalkError) as error:
        raise DamagedError(f"{path} is damaged ({one_line(error, 160)})", hint="write it again") from error


def _plan(document: Mapping[str, Any]) -> AnyMap:
    kind = _KINDS[document["name"]]
    # Numbers of single heads and sharpness came later than the format: a file without them means none.
    later = {*_HEADS, "sharpness"}
    given = {
        item.name: document[item.name]
        for item in fields(kind)
        if item.name in document or item.name not in later
    }
    for name in ("far_inv_freq", "inv_freq", "logits", *_HEADS):
        if given.get(name) is not None:
            given[name] = np.asarray(given[name], dtype=np.float64)
            if not given[name].ndim or not np.isfinite(given[name]).all():
                raise UsageError(f"{name} is no list of numbers", hint="")
    if "groups" in given:
        given["groups"] = tuple(given["groups"])
    return kind(**given)


def nearest_table(
    plan: PositionMap | DualChunk, geometry: RopeGeometry, target_length: int
) -> FrequencySchedule:
    """The single table whose turns are nearest to a map's over all distances up to the target.

    For each pair the frequency between theta and theta / s whose angle d * theta' points where the map's does, in least
    squares of the chord between the two, every octave of distances weighing alike; a pair that the map never turns once
    may turn no further than there, and profiles are made monotone. So pairs that turn often stay as they are and slow
    ones are stretched, as in by-parts. The attention factor is YaRN's. Dual-chunk, which is no function of the distance
    alone, gets YaRN itself.
    """
    factor = max(1.0, target_length / geometry.original_length)
    if isinstance(plan, DualChunk) or factor == 1.0:
        return make_schedule("yarn" if factor > 1 else "none", geometry, factor=factor)
    own = geometry.inv_freq[: geometry.num_rotating]
    distances = np.round(np.geomspace(1, target_length - 1, _DISTANCES))
    # Grouped angles depend on where the query stands, not on the distance alone: the target's last stands for all.
    last = np.full(len(distances), float(target_length - 1))
    turned = plan.query_turn(geometry.inv_freq, last) - plan.key_turn(geometry.inv_freq, last - distances)
    far_DP = (np.outer(distances, geometry.inv_freq) + turned)[:, : len(own)]
    angles_DP = np.where(distances[:, None] < plan.near, np.outer(distances, own), far_DP)
    profiles = np.linspace(0.0, 1.0, _STEPS)
    apart_SP = np.stack(
        [(2 - 2 * np.cos(np.outer(distances, own * factor**-m) - angles_DP)).mean(0) for m in profiles]
    )
    best, slow = profiles[apart_SP.argmin(0)], angles_DP.max(0) < 2 * math.pi
    # m at which the pair's angle at the last distance is the map's largest one; 1e-300 for angles of zero.
    least = np.log(own * (target_length - 1) / np.maximum(angles_DP.max(0), 1e-300)) / math.log(factor)
    profile: FloatArray = np.maximum.accumulate(
        np.where(slow, np.maximum(best, np.clip(least, 0.0, 1.0)), best)
    )
    return FrequencySchedule(
        method=NEAREST,
        geometry=geometry,
        factor=factor,
        inv_freq=geometry.padded(own * factor**-profile),
        attention_factor=temperature(factor),
        parameters={"map": plan.name},
        notes=(f"the single table nearest to {plan.name}, which only Ropewalk computes",),
    )


def map_file(
    plan: AnyMap,
    geometry: RopeGeometry,
    target_length: int,
    fitted: Mapping[str, Any] | None = None,
    nearest: FrequencySchedule | None = None,
) -> MapFile:
    """A map with its table: the one given (found by measurement), otherwise `nearest_table`."""
    if nearest is None:
        assert not isinstance(plan, LayerTables), (
            "tables of layers come from a single one, which stands beside them"
        )
        nearest = nearest_table(plan, geometry, target_length)
    return MapFile(plan, geometry, target_length, nearest, dict(fitted or {}))
