"""`FrequencySchedule`: what a method makes and everything downstream uses. Nothing here knows which method made it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.geometry import FloatArray, PerPair, RopeGeometry, check_factor, whole_tokens

FORMAT = "ropewalk-schedule/1"


# eq=False: arrays have no single answer to ==, so that equality goes by the document below.
@dataclass(frozen=True, eq=False)
class FrequencySchedule:
    """New frequencies for a geometry, with the attention factor that goes with them.

    `inv_freq` is radians per token, float64, one entry a pair. `attention_factor` multiplies cos and sin, so its
    square multiplies the logits. `short_inv_freq`, where set, serves inputs no longer than the original window
    (LongRoPE's second set). `native` names a stock rope type and its fields when that type gives exactly these
    frequencies; None means that the universal carrier is needed.
    """

    method: str
    geometry: RopeGeometry
    factor: float
    inv_freq: PerPair
    attention_factor: float = 1.0
    short_inv_freq: PerPair | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    native: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_factor(self.factor))
        object.__setattr__(self, "inv_freq", self._checked("inv_freq", self.inv_freq))
        if self.short_inv_freq is not None:
            object.__setattr__(self, "short_inv_freq", self._checked("short_inv_freq", self.short_inv_freq))
        attention = float(self.attention_factor)
        if not math.isfinite(attention) or attention <= 0:
            raise UsageError(
                f"attention_factor={attention} is not a positive number", hint="1 leaves attention alone"
            )
        object.__setattr__(self, "attention_factor", attention)

    def _checked(self, name: str, values: object) -> FloatArray:
        # A copy: what the caller does with its own array afterwards is no change of a schedule.
        array = np.array(values, dtype=np.float64)
        if array.shape != (self.geometry.half_dim,):
            raise UsageError(
                f"{name} has shape {array.shape}, this geometry has {self.geometry.half_dim} pairs",
                hint="make the schedule from the model's own geometry",
            )
        if not np.all(np.isfinite(array)) or np.any(array < 0):
            raise UsageError(
                f"{name} holds values that are not finite and non-negative", hint="correct the parameters"
            )
        array.setflags(write=False)
        return array

    @property
    def target_length(self) -> int:
        """Tokens that the schedule is nominally for: factor * original_length, rounded up."""
        return whole_tokens(self.factor * self.geometry.original_length, math.ceil)

    @property
    def stretch(self) -> PerPair:
        """theta_i / theta'_i per pair: 1 leaves a pair alone, `factor` interpolates it fully, inf stops it."""
        ratio = np.ones_like(self.geometry.inv_freq)
        # A tail that never turned is left alone (1); a pair that a method stops is stretched without end.
        moving = self.geometry.inv_freq > 0
        with np.errstate(divide="ignore"):
            ratio[moving] = self.geometry.inv_freq[moving] / self.inv_freq[moving]
        return ratio

    @property
    def profile(self) -> PerPair:
        """The stretch profile m with theta'_i = theta_i * factor ** -m_i; all zero at factor 1."""
        # ln 1 = 0 is no unit to measure a stretch in.
        if self.factor == 1.0:
            return np.zeros_like(self.inv_freq)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.stretch) / math.log(self.factor), dtype=np.float64)

    @property
    def wavelength(self) -> PerPair:
        """Tokens per turn under the schedule; infinite where a pair is stopped."""
        with np.errstate(divide="ignore"):
            return np.asarray(2 * np.pi / self.inv_freq, dtype=np.float64)

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters a person sets: those that are not lists with an entry for each pair."""
        return {name: value for name, value in self.parameters.items() if not isinstance(value, list)}

    @property
    def is_identity(self) -> bool:
        """True when applying the schedule changes nothing at all."""
        # By bits: an identity is not applied at all, and what is only close to one must be.
        same = np.array_equal(self.inv_freq, self.geometry.inv_freq)
        same_short = self.short_inv_freq is None or np.array_equal(
            self.short_inv_freq, self.geometry.inv_freq
        )
        return bool(same and same_short and self.attention_factor == 1.0)

    def to_json(self) -> dict[str, Any]:
        """A JSON document that `from_json` reads back bit for bit."""
        return {
            "format": FORMAT,
            "method": self.method,
            "factor": self.factor,
            "attention_factor": self.attention_factor,
            "geometry": self.geometry.to_json(),
            "parameters": dict(self.parameters),
            "inv_freq": self.inv_freq.tolist(),
            "short_inv_freq": None if self.short_inv_freq is None else self.short_inv_freq.tolist(),
            "native": None if self.native is None else dict(self.native),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str) -> FrequencySchedule:
        """Read a schedule that `to_json` wrote, as a dictionary or as text."""
        if isinstance(document, str):
            try:
                document = json.loads(document)
            except (ValueError, RecursionError) as error:
                raise RopewalkError(
                    f"a schedule is not JSON ({one_line(error)})", hint="write it again"
                ) from error
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, Mapping) else type(document).__name__
            raise RopewalkError(
                f"not a schedule of this version (format {one_line(found, 60)!r}, expected {FORMAT!r})",
                hint="write it again with FrequencySchedule.to_json",
            )
        try:
            return cls(
                method=str(document["method"]),
                geometry=RopeGeometry.from_json(document["geometry"]),
                factor=document["factor"],
                inv_freq=document["inv_freq"],
                attention_factor=document["attention_factor"],
                short_inv_freq=document.get("short_inv_freq"),
                parameters=document.get("parameters") or {},
                native=document.get("native"),
                notes=tuple(document.get("notes") or ()),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RopewalkError(
                f"a schedule document is incomplete ({one_line(error)})", hint="write it again"
            ) from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrequencySchedule):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        # Less than __eq__ compares: parameters may hold lists, which have no hash.
        return hash((self.method, self.geometry, self.factor, self.attention_factor, self.inv_freq.tobytes()))
