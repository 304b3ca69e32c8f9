"""By rotations: NTK-by-parts as the YaRN paper writes it, and YaRN as every shipped implementation computes it."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.geometry import PerTurningPair, RopeGeometry
from ropewalk.methods.build import above, from_frequencies, positive, rotating, temperature
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule

# Equal bounds would divide by zero; the shipped implementations all widen the ramp by this much.
_DEGENERATE = 0.001
# Rotations beyond these bounds lie outside any window and any head.
_FEWEST, _MOST = 1e-9, 1e12


def rotations_ramp(geometry: RopeGeometry, beta_fast: float, beta_slow: float) -> PerTurningPair:
    """1 - gamma(r_i): 0 for pairs that turn beta_fast times or more in the window, 1 for beta_slow or fewer (paper)."""
    turns = geometry.rotations[: geometry.num_rotating]
    if beta_fast == beta_slow:
        return (turns < beta_slow).astype(np.float64)
    return np.asarray(
        1.0 - np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0.0, 1.0), dtype=np.float64
    )


def index_ramp(geometry: RopeGeometry, beta_fast: float, beta_slow: float, truncate: bool) -> PerTurningPair:
    """The ramp that shipped code uses: linear in the pair index between the pairs that turn beta_fast and beta_slow
    times, rounded outwards unless `truncate` is off, and clipped to [0, d-1]."""
    low, high = geometry.pair_at(beta_fast), geometry.pair_at(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    # d - 1, not the last pair d/2 - 1, as the paper's code and transformers clip; a port that clips at the pair
    # computes another ramp.
    low, high = max(low, 0), min(high, geometry.rotary_dim - 1)
    if low == high:
        high += _DEGENERATE
    index = np.arange(geometry.num_rotating)
    return np.asarray(np.clip((index - low) / (high - low), 0.0, 1.0), dtype=np.float64)


def _check_betas(name: str, fast_name: str, beta_fast: float, slow_name: str, beta_slow: float) -> None:
    positive(f"{name}: {slow_name}", beta_slow)
    # Equal betas, which Kimi K2 ships, leave a ramp of one pair or none.
    above(f"{name}: {fast_name}", beta_fast, slow_name, beta_slow, or_equal=True)
    if beta_slow < _FEWEST or beta_fast > _MOST:
        raise UsageError(
            f"{name}: {slow_name}={beta_slow:g} and {fast_name}={beta_fast:g} are no numbers of rotations",
            hint=f"keep both between {_FEWEST:g} and {_MOST:g}; 1 and 32 are usual",
        )


def _by_ramp(geometry: RopeGeometry, factor: float, ramp: PerTurningPair) -> PerTurningPair:
    base = rotating(geometry)
    return base / factor * ramp + base * (1.0 - ramp)


@method("by-parts", paper="arXiv:2309.00071")
def by_parts(
    geometry: RopeGeometry, *, factor: float, alpha: float = 1.0, beta: float = 32.0
) -> FrequencySchedule:
    """theta'_i = (gamma + (1-gamma)/s) * theta_i, gamma = clip((r_i-alpha)/(beta-alpha), 0, 1), r_i rotations.

    NTK-by-parts, YaRN paper eq. 17 and 18: the ramp is linear in the rotations. Few pairs turn 32 times in a small
    window, so that pairs are slowed early there: let the betas follow the geometry (`ropewalk plan` suggests them).

    Parameters:
        alpha: rotations in the original window at which a pair is interpolated fully.
        beta: rotations at which a pair is left alone.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> by_parts(geometry, factor=4.0).stretch.round(3).tolist()
    [2.118, 3.993, 4.0, 4.0]
    >>> by_parts(geometry, factor=4.0, beta=8.0).stretch.round(3).tolist()
    [1.0, 3.968, 4.0, 4.0]
    """
    _check_betas("by-parts", "beta", beta, "alpha", alpha)
    ramp = rotations_ramp(geometry, beta, alpha)
    parameters = {"alpha": alpha, "beta": beta}
    return from_frequencies(
        "by-parts", geometry, factor, _by_ramp(geometry, factor, ramp), parameters=parameters
    )


@method("yarn", paper="arXiv:2309.00071")
def yarn(
    geometry: RopeGeometry,
    *,
    factor: float,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    ramp: Literal["index", "rotations"] = "index",
    truncate: bool = True,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
) -> FrequencySchedule:
    """by-parts with its ramp linear in the pair index (all shipped code), cos and sin times 0.1 ln s + 1.

    c(rot) = d ln(L/(2 pi rot)) / (2 ln rope_theta); low = floor(c(beta_fast)), high = ceil(c(beta_slow)), clipped to
    [0, d-1]; theta' = theta/s * ramp + theta * (1-ramp). With mscale and mscale_all_dim both set and non-zero
    (DeepSeek) the attention factor is f(mscale)/f(mscale_all_dim), f(m) = 0.1 m ln s + 1.

    Parameters:
        beta_fast: rotations in the original window at which a pair is left alone.
        beta_slow: rotations at which a pair is interpolated fully.
        ramp: `index` is the shipped code's; `rotations` the paper's, up to 2.3x away at factor 8, 4x at 32.
        truncate: round the ends of the ramp outwards to whole pairs; off for gpt-oss.
        attention_factor: what multiplies cos and sin; wins over everything else.
        mscale: DeepSeek's first coefficient.
        mscale_all_dim: DeepSeek's second; counts only beside the first.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> yarn(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.6, 4.0, 4.0]
    >>> round(yarn(geometry, factor=4.0).attention_factor, 4)
    1.1386
    """
    _check_betas("yarn", "beta_fast", beta_fast, "beta_slow", beta_slow)
    if ramp == "rotations":
        blend = rotations_ramp(geometry, beta_fast, beta_slow)
    else:
        blend = index_ramp(geometry, beta_fast, beta_slow, truncate)
    parameters: dict[str, Any] = {"beta_fast": beta_fast, "beta_slow": beta_slow, "truncate": truncate}
    optional = {"attention_factor": attention_factor, "mscale": mscale, "mscale_all_dim": mscale_all_dim}
    parameters |= {name: value for name, value in optional.items() if value is not None}
    return from_frequencies(
        "yarn",
        geometry,
        factor,
        _by_ramp(geometry, factor, blend),
        attention_factor=yarn_attention_factor(factor, attention_factor, mscale, mscale_all_dim),
        parameters=parameters | ({"ramp": ramp} if ramp != "index" else {}),
        # The ramp over rotations is the paper's alone: no stock code has a name for it.
        native={"type": "yarn"} | parameters if ramp == "index" else None,
    )


def yarn_attention_factor(
    factor: float,
    attention_factor: float | None = None,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
) -> float:
    """What multiplies cos and sin: the given value, the ratio of two mscales, or 0.1 ln s + 1."""
    if attention_factor is not None:
        return attention_factor
    # A zero counts as unset here, as it does in the shipped implementations.
    if mscale and mscale_all_dim:
        return temperature(factor, mscale) / temperature(factor, mscale_all_dim)
    return temperature(factor)
