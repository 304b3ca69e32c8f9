"""Position maps: what a query at position p takes the distance to a key at position j to be, past a near zone.

Nearer than `near` tokens every map leaves distances alone. Beyond it each says by how much the angles of queries and of
keys, as the model rotated them, are turned further; the two attentions are merged by their log-sum-exp. With a pair's
frequency theta and the true distance d = p - j the far angle is

    zones          near * theta + (d - near) * theta'         theta' of any schedule; continuous at `near`
    self-extend    (p // g - j // g + near - near // g) * theta       one group size g
    dpe            the same with a group size for each band of pairs          arXiv:2504.18857
    rerope         near * theta
    leaky-rerope   near * theta + (d - near) / k * theta
    dual-chunk     by chunks of the text: `DualChunk`                         arXiv:2402.17463
    layers         d * theta' of the layer, for queries past the window: `LayerTables`

No torch here: `ropewalk.attention.maps` puts a map on a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from ropewalk.errors import UsageError, near_miss
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.map_table import MAPS
from ropewalk.methods import schedule as make_schedule
from ropewalk.schedule import FrequencySchedule

# Discounts, powers and multiples beyond this leave float32, and any use.
_MOST = 1000.0


@dataclass(frozen=True, eq=False)
class PositionMap:
    """Two zones. `near` is the width of the one where distances are true, in tokens.

    `far_logits` multiplies the far zone's logits, and two things are added to them: `discount` nats, and
    -`log_discount` * ln((p + 1) / original_length) for a query at position p past the original window. With
    log_discount = 1 (`discount=log` is short for it) the far zone weighs as if it held as many keys as training ever
    showed. `sharpness` is for both zones: all logits of that query are multiplied by ((p + 1) / original_length) to
    its power, so that what a query looks for still stands out among more keys.
    """

    near: int
    original_length: int
    discount: float | Literal["log"] = 0.0
    far_logits: float = 1.0
    log_discount: float = 0.0
    sharpness: float = 0.0

    name = ""

    def __post_init__(self) -> None:
        if not 1 <= self.near <= self.original_length:
            raise UsageError(
                f"near={self.near} is no width inside the window of {self.original_length} tokens",
                hint=f"use 1 to {self.original_length}; half the window is a start",
            )
        if self.discount == "log":
            object.__setattr__(self, "discount", 0.0)
            object.__setattr__(self, "log_discount", 1.0)
        for given in (self.discount, self.log_discount):
            if not abs(float(given)) <= _MOST:
                raise UsageError(
                    f"discount={given} is no number of nats", hint=f"use at most {_MOST:g}, or log"
                )
        if not abs(self.sharpness) <= _MOST:
            raise UsageError(f"sharpness={self.sharpness} is no power", hint="0 leaves the logits alone")
        if not 0 < self.far_logits <= _MOST:
            raise UsageError(
                f"far_logits={self.far_logits} is not positive, or beyond {_MOST:g}",
                hint="1 leaves the far zone alone",
            )

    def key_turn(self, inv_freq_P: FloatArray, positions_K: FloatArray) -> FloatArray:
        """Radians by which far keys at these positions are turned further, (K, P)."""
        raise NotImplementedError

    def query_turn(self, inv_freq_P: FloatArray, positions_T: FloatArray) -> FloatArray:
        """Radians by which far queries at these positions are turned further, (T, P)."""
        raise NotImplementedError

    @property
    def exact_until(self) -> int:
        """Queries before this position see every key at its true distance."""
        return self.near

    def offset(self, positions_T: FloatArray) -> FloatArray:
        """What is added to the far logits of queries at these positions, in nats."""
        return np.asarray(float(self.discount) - self.log_discount * self.growth(positions_T))

    def growth(self, positions_T: FloatArray) -> FloatArray:
        """ln((p + 1) / original_length), 0 inside the window."""
        return np.asarray(np.log(np.maximum((positions_T + 1) / self.original_length, 1.0)))

    def to_json(self) -> dict[str, Any]:
        """What identifies the map in a result."""
        return {"name": self.name} | {
            item.name: value.tolist() if hasattr(value := getattr(self, item.name), "tolist") else value
            for item in fields(self)
        }


@dataclass(frozen=True, eq=False)
class Zones(PositionMap):
    """A near zone as trained, and a far one under another schedule, continuous where they meet.

    The far angle is near * theta + (d - near) * theta'. `far_factor` is the factor of `far_method`, whose frequencies
    are `far_inv_freq`. A query inside the original window has no far zone: all that it sees is at distances that
    training showed, so a text that fits the window costs nothing, whatever follows it.

    `head_log_discount`, `head_far_logits` and `head_sharpness` (layers, heads), where they are given, stand for
    `log_discount`, `far_logits` and `sharpness` with a number for each head: those that look things up need the far
    zone whole, others only lose by it.
    """

    far_inv_freq: FloatArray | None = None
    far_method: str = ""
    far_factor: float = 1.0
    head_log_discount: FloatArray | None = None
    head_far_logits: FloatArray | None = None
    head_sharpness: FloatArray | None = None

    name = "zones"

    @property
    def exact_until(self) -> int:
        """The original window."""
        return self.original_length

    def key_turn(self, inv_freq_P: FloatArray, positions_K: FloatArray) -> FloatArray:
        """j * (theta' - theta)."""
        return np.outer(positions_K, self._change(inv_freq_P))

    def query_turn(self, inv_freq_P: FloatArray, positions_T: FloatArray) -> FloatArray:
        """(p - near) * (theta' - theta)."""
        return np.outer(positions_T - self.near, self._change(inv_freq_P))

    def _change(self, inv_freq_P: FloatArray) -> FloatArray:
        far = self.far_inv_freq
        if far is None or far.shape != inv_freq_P.shape:
            raise UsageError(
                f"the far zone has {0 if far is None else len(far)} pairs, the model rotates {len(inv_freq_P)}",
                hint="make the map from the model's own geometry",
            )
        return np.asarray(far - inv_freq_P)


@dataclass(frozen=True, eq=False)
class Grouped(PositionMap):
    """Far positions in groups: `groups` is one size (self-extend), or one for each equal band of pairs (DPE)."""

    groups: tuple[int, ...] = (16,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups or min(self.groups) < 1:
            raise UsageError(f"groups={self.groups} are no sizes", hint="use 1 or more tokens for each group")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The published name: by one size, or by several."""
        return "self-extend" if len(self.groups) == 1 else "dpe"

    def key_turn(self, inv_freq_P: FloatArray, positions_K: FloatArray) -> FloatArray:
        """(j // g - j) * theta."""
        places = positions_K[:, None]
        return (places // self._sizes(inv_freq_P) - places) * inv_freq_P

    def query_turn(self, inv_freq_P: FloatArray, positions_T: FloatArray) -> FloatArray:
        """(p // g + near - near // g - p) * theta."""
        places, sizes = positions_T[:, None], self._sizes(inv_freq_P)
        return (places // sizes + self.near - self.near // sizes - places) * inv_freq_P

    def _sizes(self, inv_freq_P: FloatArray) -> FloatArray:
        bands = np.array_split(np.arange(len(inv_freq_P)), len(self.groups))
        return np.concatenate([np.full(len(b), float(g)) for b, g in zip(bands, self.groups, strict=True)])


@dataclass(frozen=True, eq=False)
class ReRoPE(PositionMap):
    """Distances stop at `near` (rerope), or go on with a slope of 1/`slowdown` (leaky-rerope)."""

    slowdown: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.slowdown >= 1:
            raise UsageError(f"slowdown={self.slowdown} is below 1", hint="use 1 or more; inf is rerope")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The published name: with a slope, or with none."""
        return "rerope" if math.isinf(self.slowdown) else "leaky-rerope"

    def key_turn(self, inv_freq_P: FloatArray, positions_K: FloatArray) -> FloatArray:
        """(j / k - j) * theta."""
        return np.outer(positions_K / self.slowdown - positions_K, inv_freq_P)

    def query_turn(self, inv_freq_P: FloatArray, positions_T: FloatArray) -> FloatArray:
        """(p / k + near - near / k - p) * theta."""
        # With a slowdown of inf this is `near`, and keys stand at 0: the distance no longer grows.
        far = positions_T / self.slowdown + self.near - self.near / self.slowdown
        return np.outer(far - positions_T, inv_freq_P)


@dataclass(frozen=True, eq=False)
class DualChunk:
    """Dual-chunk attention: keys stand at j mod `chunk`, queries where their chunk sees the keys.

    Inside a chunk distances are true. To the chunk before, a query stands at min(p mod chunk + chunk, limit - 1), so
    that neighbours across the border keep true distances up to limit - chunk. To all earlier ones it stands at
    limit - 1. `limit` is the window that training showed, `chunk` the length of a chunk, smaller than it.
    """

    chunk: int
    limit: int

    name = "dual-chunk"

    def __post_init__(self) -> None:
        if not 1 <= self.chunk < self.limit:
            raise UsageError(
                f"chunk={self.chunk} is not below the window of {self.limit} tokens",
                hint="three quarters of the window is usual",
            )

    def to_json(self) -> dict[str, Any]:
        """What identifies the map in a result."""
        return {"name": self.name, "chunk": self.chunk, "limit": self.limit}


@dataclass(frozen=True, eq=False)
class LayerTables:
    """A table of frequencies for each layer: `inv_freq` (layers, pairs) and `logits` (layers,), which multiplies.

    They are for queries past the original window. Queries inside it see every key as training showed, so a text that
    fits the window costs nothing, whatever follows it.
    """

    original_length: int
    inv_freq: FloatArray
    logits: FloatArray

    name = "layers"

    def __post_init__(self) -> None:
        if not isinstance(self.original_length, int) or self.original_length < 1:
            raise UsageError(f"original_length={self.original_length!r} is no window", hint="give its tokens")
        if self.inv_freq.ndim != 2 or self.logits.shape != self.inv_freq.shape[:1]:
            raise UsageError(
                f"tables of shape {self.inv_freq.shape} with logits of shape {self.logits.shape}",
                hint="give (layers, pairs) and (layers,)",
            )
        if not np.isfinite(self.inv_freq).all() or (self.inv_freq < 0).any():
            raise UsageError("a frequency is negative or no number", hint="use radians per token, 0 or more")
        if not np.isfinite(self.logits).all() or (self.logits <= 0).any():
            raise UsageError("a multiple of logits is not positive", hint="1 leaves a layer's logits alone")

    @classmethod
    def of(cls, schedule: FrequencySchedule, layers: int) -> LayerTables:
        """One schedule for every layer."""
        # Squared: an attention factor multiplies cosines and sines of queries and of keys.
        logits = np.full(layers, schedule.attention_factor**2)
        return cls(schedule.geometry.original_length, np.tile(schedule.inv_freq, (layers, 1)), logits)

    @property
    def exact_until(self) -> int:
        """The original window."""
        return self.original_length

    def to_json(self) -> dict[str, Any]:
        """What identifies the map in a result."""
        return {
            "name": self.name,
            "original_length": self.original_length,
            "inv_freq": self.inv_freq.tolist(),
            "logits": self.logits.tolist(),
        }


AnyMap = PositionMap | DualChunk | LayerTables


def map_for(
    name: str, geometry: RopeGeometry, target_length: int, **parameters: Any
) -> PositionMap | DualChunk:
    """A map by name that keeps every distance up to `target_length` inside the window that training showed.

    Parameters that are not given follow from the geometry. `zones` takes `far_method` with a dictionary of its
    `far_parameters`, or a finished `schedule`, whose attention factor multiplies the far logits by its square.

    >>> geometry = RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)
    >>> map_for("self-extend", geometry, 4096).groups
    (15,)
    """
    if name not in MAPS:
        raise UsageError(f"no position map {name!r}", hint=near_miss(name, MAPS, otherwise=", ".join(MAPS)))
    allowed = {*MAPS[name].parameters, *(("far_parameters", "schedule") if name == "zones" else ())}
    for given in parameters:
        if given not in allowed:
            raise UsageError(
                f"{name} has no parameter {given!r}",
                hint=near_miss(given, allowed, otherwise=", ".join(sorted(allowed))),
            )
    window = geometry.original_length
    if name == "dual-chunk":
        return DualChunk(int(parameters.get("chunk", max(1, window * 3 // 4))), window)
    near = int(parameters.pop("near", max(1, window // 2)))
    # How much slower distances must grow beyond near, so that the target's last ends at the window's edge.
    reach = (max(target_length, window + 1) - near) / max(1, window - near)
    shared: dict[str, Any] = {"near": near, "original_length": window}
    shared |= {
        key: parameters[key]
        for key in ("discount", "log_discount", "far_logits", "sharpness")
        if key in parameters
    }
    if name == "zones":
        return _zones(geometry, reach, shared, parameters)
    if name == "rerope":
        return ReRoPE(**shared)
    if name == "leaky-rerope":
        return ReRoPE(**shared, slowdown=float(parameters.get("slowdown", reach)))
    # Sizes are whole; the small term keeps a rounding above a whole number from making it one more.
    group = int(parameters.get("group", math.ceil(reach - 1e-9)))
    groups: Sequence[int] = parameters.get("groups", _bands(geometry, group)) if name == "dpe" else (group,)
    return Grouped(**shared, groups=tuple(int(size) for size in groups))


def _zones(
    geometry: RopeGeometry, reach: float, shared: dict[str, Any], parameters: Mapping[str, Any]
) -> Zones:
    made = parameters.get("schedule")
    if isinstance(made, Mapping):
        made = FrequencySchedule.from_json(made)
    if made is None:
        method = str(parameters.get("far_method", "linear"))
        made = make_schedule(method, geometry, factor=reach, **parameters.get("far_parameters", {}))
        # A method's temperature is meant for a single table; the far zone has its own discount and scale.
        made = replace(made, attention_factor=1.0)
    if "discount" not in shared and "log_discount" not in shared:
        shared["discount"] = "log"
    # Squared: an attention factor multiplies cosines and sines of queries and of keys.
    shared["far_logits"] = shared.get("far_logits", 1.0) * made.attention_factor**2
    return Zones(**shared, far_inv_freq=made.inv_freq, far_method=made.method, far_factor=made.factor)


def _bands(geometry: RopeGeometry, group: int) -> tuple[int, ...]:
    """Sizes for eight bands: fast pairs turn often inside the window and need none, slow ones need the whole group.

    The published sizes were found by probing one model; these grow with the logarithm of the wavelength instead.
    """
    rotations = np.array([band.mean() for band in np.array_split(geometry.rotations, 8) if len(band)])
    # Nothing from 32 rotations on, everything at one or less: where YaRN's ramp begins and ends too.
    slow = np.clip(1 - np.log(np.maximum(rotations, 1.0)) / math.log(32), 0.0, 1.0)
    return tuple(int(size) for size in np.maximum(1, np.round(group**slow)))
