"""LongRoPE: a factor of its own for each pair, found by search, with a second set for short inputs."""

from __future__ import annotations

import math

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.methods.build import from_frequencies, rotating
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


@method("longrope", paper="arXiv:2402.13753")
def longrope(
    geometry: RopeGeometry,
    *,
    factor: float,
    long_factors: list[float] | None = None,
    short_factors: list[float] | None = None,
    attention_factor: float | None = None,
) -> FrequencySchedule:
    """theta'_i = theta_i / lambda_i with given factors, cos and sin times sqrt(1 + ln s / ln L).

    Factors are positive and non-decreasing. Without `long_factors` the search's own starting point is used: NTK-aware's
    factors, s**(i/(d/2-1)).

    Parameters:
        long_factors: one lambda a pair, for inputs beyond the original window.
        short_factors: one a pair, for inputs up to it; all 1 where not given.
        attention_factor: what multiplies cos and sin instead of the formula.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> longrope(geometry, factor=4.0, long_factors=[1, 2, 3, 4]).stretch.round(3).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    base = rotating(geometry)
    if long_factors is None:
        searched = factor ** (np.arange(base.size) / max(base.size - 1, 1))
        notes: tuple[str, ...] = ("no long_factors given: NTK-aware's, where a search would start",)
    else:
        searched, notes = _factors("long_factors", long_factors, base.size), ()
    short = (
        np.ones_like(base) if short_factors is None else _factors("short_factors", short_factors, base.size)
    )
    parameters = {"long_factors": searched.tolist(), "short_factors": short.tolist()}
    scaled = (
        longrope_attention_factor(factor, geometry.original_length)
        if attention_factor is None
        else attention_factor
    )
    return from_frequencies(
        "longrope",
        geometry,
        factor,
        base / searched,
        short_inv_freq=base / short,
        attention_factor=scaled,
        parameters=parameters | ({} if attention_factor is None else {"attention_factor": attention_factor}),
        # Given or computed, the attention factor is written beside the lists and left to no reader.
        native={"type": "longrope"} | parameters,
        notes=notes,
    )


def longrope_attention_factor(factor: float, original_length: int) -> float:
    """sqrt(1 + ln s / ln L); 1 where nothing is stretched or the window is one token."""
    if factor <= 1.0 or original_length <= 1:
        return 1.0
    return math.sqrt(1.0 + math.log(factor) / math.log(original_length))


def _factors(name: str, values: list[float], count: int) -> PerTurningPair:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (count,):
        raise UsageError(
            f"longrope: {name} has {array.size} entries", hint=f"this geometry needs {count}, one a pair"
        )
    if np.any(array <= 0) or np.any(np.diff(array) < 0):
        raise UsageError(
            f"longrope: {name} are not positive and non-decreasing",
            hint="a slower pair is stretched at least as much as a faster one: sort or search again",
        )
    return array
