"""The shape of a rotary embedding: how many pairs, how fast each turns, how far it turned in training.

Pairs are counted i = 0 .. half_dim-1 and theta_i = rope_theta ** (-2i/d) radians per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError

FloatArray = NDArray[np.float64]
# Shapes, for the eye and for tools that read annotations: one entry a pair, a pair that turns, a distance, a position.
PerPair = Annotated[FloatArray, "half_dim"]
PerTurningPair = Annotated[FloatArray, "num_rotating"]
PerDistance = Annotated[FloatArray, "length"]
PerPosition = Annotated[FloatArray, "positions"]
PerHead = Annotated[FloatArray, "heads"]
MAX_HEAD_DIM = 65536


@dataclass(frozen=True)
class RopeGeometry:
    """The rotary part of one attention head and the window it was trained in.

    `head_dim` and `rotary_dim` count dimensions, `original_length` counts tokens, `inv_freq` is radians per token.
    With `proportional=True` (newest Gemma) the first `partial_rotary_factor` of the pairs rotate, the exponent runs
    over the whole head_dim, and the remaining frequencies are exactly zero; otherwise the unrotated dimensions are
    not in `inv_freq` at all.

    >>> geometry = RopeGeometry(head_dim=128, rope_theta=10000.0, original_length=4096)
    >>> geometry.half_dim, geometry.critical_dim
    (64, 92)
    """

    head_dim: int
    rope_theta: float
    original_length: int
    partial_rotary_factor: float = 1.0
    proportional: bool = False

    def __post_init__(self) -> None:
        head_dim = _whole("head_dim", self.head_dim)
        original_length = _whole("original_length", self.original_length)
        rope_theta = _real("rope_theta", self.rope_theta)
        share = _real("partial_rotary_factor", self.partial_rotary_factor)
        if not 2 <= head_dim <= MAX_HEAD_DIM:
            raise UsageError(
                f"head_dim={head_dim} cannot hold a rotary pair", hint=f"use 2 to {MAX_HEAD_DIM}"
            )
        if rope_theta <= 1.0:
            raise UsageError(
                f"rope_theta={rope_theta:g} would make later pairs turn faster than the first",
                hint="rope_theta is a number above 1, most often 10000 or more",
            )
        if original_length < 1:
            raise UsageError(
                f"original_length={original_length} is not a window", hint="give tokens, 1 or more"
            )
        if not 0.0 < share <= 1.0:
            raise UsageError(
                f"partial_rotary_factor={share:g} is not a share",
                hint="it lies in (0, 1]; 1 rotates the whole head",
            )
        # The values as checked, past the frozen door: 4096.0 is 4096 from here on, numpy's numbers are
        # Python's.
        for name, value in (
            ("head_dim", head_dim),
            ("rope_theta", rope_theta),
            ("original_length", original_length),
            ("partial_rotary_factor", share),
        ):
            object.__setattr__(self, name, value)
        rotary_dim = self.rotary_dim
        if rotary_dim < 2 or rotary_dim % 2:
            raise UsageError(
                f"rotary_dim={rotary_dim} (head_dim={head_dim} * partial_rotary_factor={share:g}) is not a positive "
                "even number",
                hint="rotation works on pairs of dimensions: correct head_dim or partial_rotary_factor",
            )
        if not self.num_rotating:
            raise UsageError(
                f"partial_rotary_factor={share:g} of head_dim={head_dim} leaves no pair that rotates",
                hint=f"it takes {2 / head_dim:g} for the first",
            )

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that carry a frequency, zero ones of a proportional tail included."""
        # Cut off, not rounded, as transformers does: the odd numbers that come of it are refused above.
        return self.head_dim if self.proportional else int(self.head_dim * self.partial_rotary_factor)

    @property
    def half_dim(self) -> int:
        """Entries of `inv_freq`."""
        return self.rotary_dim // 2

    @property
    def num_rotating(self) -> int:
        """Pairs that really turn: `half_dim` less a proportional tail."""
        if not self.proportional:
            return self.half_dim
        # In this order, as transformers: the product first, then the floor.
        return int(self.partial_rotary_factor * self.head_dim // 2)

    @cached_property
    def inv_freq(self) -> PerPair:
        """theta_i, float64; read-only."""
        exponents = np.arange(0, 2 * self.num_rotating, 2, dtype=np.float64) / self.rotary_dim
        return self.padded(self.rope_theta**-exponents)

    def padded(self, rotating: PerTurningPair) -> PerPair:
        """A vector over the rotating pairs with the zero tail of a proportional geometry added; read-only."""
        full = np.zeros(self.half_dim, dtype=np.float64)
        full[: self.num_rotating] = rotating
        # Every schedule of this geometry refers to the one array: a write would reach them all.
        full.setflags(write=False)
        return full

    @property
    def wavelength(self) -> PerPair:
        """Tokens per full turn, 2*pi/theta_i; infinite where a pair does not turn."""
        with np.errstate(divide="ignore"):
            return 2 * np.pi / self.inv_freq

    @property
    def rotations(self) -> PerPair:
        """Full turns inside the trained window, r_i = original_length / wavelength_i."""
        return self.original_length * self.inv_freq / (2 * np.pi)

    @property
    def critical_dim(self) -> int:
        """Dimensions whose pairs complete a turn in training: 2*ceil(d/2 * log_theta(L / 2*pi)), inside [0, d]."""
        turns = self.original_length / (2 * math.pi)
        if turns <= 1.0:
            return 0
        pairs = math.ceil(self.rotary_dim / 2 * math.log(turns) / math.log(self.rope_theta))
        return 2 * min(pairs, self.num_rotating)

    def pair_at(self, rotations: float) -> float:
        """The (real-valued) pair index that turns `rotations` times in the window: d ln(L/(2 pi r)) / (2 ln theta)."""
        turns = self.original_length / (rotations * 2 * math.pi)
        return self.rotary_dim * math.log(turns) / (2 * math.log(self.rope_theta))

    def with_theta(self, rope_theta: float) -> RopeGeometry:
        """The same geometry on another base."""
        return replace(self, rope_theta=rope_theta)

    def to_json(self) -> dict[str, Any]:
        """Every field and the counts that follow from them."""
        return {
            "head_dim": self.head_dim,
            "rotary_dim": self.rotary_dim,
            "rope_theta": self.rope_theta,
            "original_length": self.original_length,
            "partial_rotary_factor": self.partial_rotary_factor,
            "proportional": self.proportional,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RopeGeometry:
        """The inverse of `to_json`; derived counts in the document are ignored."""
        try:
            return cls(
                head_dim=document["head_dim"],
                rope_theta=document["rope_theta"],
                original_length=document["original_length"],
                partial_rotary_factor=document.get("partial_rotary_factor", 1.0),
                proportional=bool(document.get("proportional", False)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"a geometry document lacks {error}", hint="write it with RopeGeometry.to_json"
            ) from error


def _whole(name: str, value: object) -> int:
    number = _real(name, value)
    if number != int(number):
        raise UsageError(f"{name}={value!r} is not a whole number", hint=f"give {name} as an integer")
    return int(number)


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise UsageError(f"{name}={str(value)[:60]!r} is not a number", hint=f"give {name} as a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"{name}={number} is not finite", hint=f"give {name} as a finite number")
    return number


def whole_tokens(tokens: float, rounded: Callable[[float], int]) -> int:
    """A product of a factor and a length as tokens, `rounded` up or down unless it is whole but for its rounding.

    >>> whole_tokens(1048576000 / 28 * 28, math.ceil), whole_tokens(10.2, math.ceil)
    (1048576000, 11)
    """
    nearest = round(tokens)
    # The fixed part is for powers of a growth, the other for windows so long that one rounding is more than that.
    return nearest if abs(tokens - nearest) <= max(1e-9, 4 * math.ulp(tokens)) else rounded(tokens)


def check_factor(factor: object) -> float:
    """A stretch factor: finite and at least 1, since smaller ones would shrink the window."""
    number = _real("factor", factor)
    if number <= 0:
        raise UsageError(
            f"factor={number:g} is not a stretch", hint="use factor > 1, the target length over the original"
        )
    if number < 1:
        raise UsageError(f"factor={number:g} shrinks the window", hint="use factor > 1")
    if number > 1e6:
        raise UsageError(f"factor={number:g} is beyond any known use", hint="use a factor up to 1e6")
    return number
