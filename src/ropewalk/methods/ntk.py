"""NTK-aware scaling and its kin: a changed base, in the notations in which people write it."""

from __future__ import annotations

import math

import numpy as np

from ropewalk import notations
from ropewalk.errors import UsageError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods.build import from_frequencies, from_profile, positive, rotating, share_of
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


def _changed_base(
    name: str, geometry: RopeGeometry, factor: float, rope_theta: float, parameters: dict[str, float | int]
) -> FrequencySchedule:
    if not math.isfinite(rope_theta):
        raise UsageError(
            f"{name}: the changed rope_theta overflows at factor={factor:g}",
            hint="use a smaller factor, or let a later pair be slowed by it",
        )
    if rope_theta <= 1.0:
        raise UsageError(
            f"the changed rope_theta={rope_theta:g} is not above 1", hint="use a milder parameter"
        )
    return from_frequencies(
        name,
        geometry,
        factor,
        rotating(geometry.with_theta(rope_theta)),
        parameters=parameters,
        native={"type": "theta", "rope_theta": rope_theta},
    )


def _powered(rope_theta: float, factor: float, exponent: float) -> float:
    """rope_theta * factor ** exponent, infinite where no float holds it."""
    try:
        return float(rope_theta * factor**exponent)
    except OverflowError:
        return math.inf


@method("ntk", paper="NTK-aware scaled RoPE, 2023")
def ntk(
    geometry: RopeGeometry, *, factor: float, step: float | None = None, rope_theta: float | None = None
) -> FrequencySchedule:
    """rope_theta' = rope_theta * s**(d/(d-2)): the first pair stays, the last is interpolated by exactly s.

    The profile is m_i = i/(d/2-1); per step each pair is slowed by lambda = s**(2/(d-2)) more than the one before.
    Where `step` or `rope_theta` is given, the factor only says how long the window is meant to be. Needs a rotary
    dimension of 4 or more.

    Parameters:
        step: lambda itself, instead of deriving it from the factor.
        rope_theta: the changed base itself.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> ntk(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.587, 2.52, 4.0]
    >>> llama_2 = RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
    >>> round(ntk(llama_2, factor=8.0).native["rope_theta"])
    82685
    """
    dim = geometry.rotary_dim
    if step is not None and rope_theta is not None:
        raise UsageError("ntk: step and rope_theta say the same thing twice", hint="give one of them")
    if rope_theta is not None:
        return _changed_base("ntk", geometry, factor, rope_theta, {"rope_theta": rope_theta})
    if step is not None:
        by_step = notations.factor_from_step(dim, positive("step", step))
        new_theta = notations.theta_from_factor(geometry.rope_theta, dim, by_step)
        return _changed_base("ntk", geometry, factor, new_theta, {"step": step})
    if geometry.proportional and geometry.num_rotating > 1:
        # The last pair that turns is not the last pair of the exponent: reach the factor there.
        exponent = dim / (2 * (geometry.num_rotating - 1))
        return _changed_base("ntk", geometry, factor, _powered(geometry.rope_theta, factor, exponent), {})
    return _changed_base(
        "ntk", geometry, factor, notations.theta_from_factor(geometry.rope_theta, dim, factor), {}
    )


@method("ntk-d", paper="NTK-aware scaled RoPE, 2023 (as many posts print it)")
def ntk_d(geometry: RopeGeometry, *, factor: float) -> FrequencySchedule:
    """theta'_i = theta_i * s**(-2i/d), that is rope_theta' = rope_theta * s; the last pair stops at s**-((d-2)/d).

    The popular form with exponent 2i/d: it misses full interpolation of the last pair by s**(2/d).

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> ntk_d(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.414, 2.0, 2.828]
    """
    return _changed_base("ntk-d", geometry, factor, geometry.rope_theta * factor, {})


@method("ntk-power", paper="NTK-aware scaled RoPE, 2023 (exponent form)")
def ntk_power(
    geometry: RopeGeometry,
    *,
    factor: float,
    power: float | None = None,
    scale: float | None = None,
    reach_last: bool = False,
) -> FrequencySchedule:
    """theta'_i = rope_theta**(-(2i/d) * p), p = 1 + ln(s)/ln(rope_theta) unless `power` (p) or `scale` (p-1) is given.

    The default p is `ntk-d` again. p below 1 would speed pairs up and is refused.

    Parameters:
        power: p itself.
        scale: p - 1, the form "log(L'/L) / log(rope_theta)".
        reach_last: multiply the second term by d/(d-2), which is `ntk`.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> ntk_power(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.414, 2.0, 2.828]
    >>> ntk_power(geometry, factor=4.0, reach_last=True).stretch.round(3).tolist()
    [1.0, 1.587, 2.52, 4.0]
    """
    if power is not None and scale is not None:
        raise UsageError(
            "ntk-power: power and scale say the same thing twice (power = 1 + scale)", hint="give one"
        )
    parameters: dict[str, float | int] = {}
    if power is not None:
        parameters = {"power": power}
    elif scale is not None:
        power, parameters = 1.0 + scale, {"scale": scale}
    else:
        dim = geometry.rotary_dim if reach_last else None
        power = notations.power_from_factor(geometry.rope_theta, factor, rotary_dim=dim)
        parameters = {"reach_last": reach_last} if reach_last else {}
    if power < 1.0:
        raise UsageError(
            f"ntk-power: power={power:g} is below 1 and would speed pairs up", hint="give power >= 1"
        )
    try:
        new_theta = notations.theta_from_power(geometry.rope_theta, power)
    except OverflowError as error:
        raise UsageError(
            f"ntk-power: power={power:g} overflows the base", hint="give a power near 1"
        ) from error
    return _changed_base("ntk-power", geometry, factor, new_theta, parameters)


@method("ntk-mixed", paper="Yi recipes, 2023")
def ntk_mixed(geometry: RopeGeometry, *, factor: float, share: float = 0.5) -> FrequencySchedule:
    """NTK with s_a, then linear with s_b, s_a * s_b = s and s_a = s**share: m_i = share * i/(d/2-1) + 1 - share.

    Parameters:
        share: the part of the stretch, on a logarithmic scale, that NTK takes: 1 is `ntk`, 0 is `linear`.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> ntk_mixed(geometry, factor=4.0).stretch.round(3).tolist()
    [2.0, 2.52, 3.175, 4.0]
    """
    share_of("ntk-mixed: share", share)
    # For its refusal: one pair alone has no base to change.
    notations.exact_exponent(geometry.rotary_dim)
    count = geometry.num_rotating
    # count is 1 where a proportional share leaves one pair that turns.
    ramp = np.arange(count) / max(count - 1, 1)
    return from_profile(
        "ntk-mixed", geometry, factor, share * ramp + (1.0 - share), parameters={"share": share}
    )


@method("ntk-su", paper="Su Jianlin, NTK-RoPE-mixed, 2023 (kexue.fm/archives/9706)")
def ntk_su(geometry: RopeGeometry, *, factor: float, b: float = 0.625) -> FrequencySchedule:
    """theta'_i = theta_i * exp(-a * (i+1)**b) with a * (d/2)**b = ln s: m_i = ((i+1)/(d/2))**b.

    The last pair is interpolated by exactly s.

    Parameters:
        b: how fast the stretch grows over the pairs; 0.625 was its author's best at 100M parameters.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> ntk_su(geometry, factor=4.0).stretch.round(3).tolist()
    [1.791, 2.457, 3.184, 4.0]
    """
    positive("ntk-su: b", b)
    count = geometry.num_rotating
    # Over the pairs that turn: a zero tail is at no place of the ramp.
    profile = ((np.arange(count) + 1) / count) ** b
    return from_profile("ntk-su", geometry, factor, profile, parameters={"b": b})


@method("abf", paper="arXiv:2309.16039", faster=True)
def abf(
    geometry: RopeGeometry, *, factor: float, rope_theta: float | None = None, pair: int | None = None
) -> FrequencySchedule:
    """rope_theta' given (adjusted base frequency), or solved so that `pair` (default: the last) is slowed by s.

    5e5 is Llama-2-Long's, 1e6 Code Llama's, 5e6 and 1e7 Yi's. Without either parameter it equals `ntk`.

    Parameters:
        rope_theta: the new base.
        pair: index of the pair that the solved base slows by s; not the first, which no base changes.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> abf(geometry, factor=4.0, pair=2).stretch.round(3).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    last = geometry.num_rotating - 1
    if rope_theta is not None:
        if pair is not None:
            raise UsageError("abf: rope_theta and pair exclude each other", hint="give one of them")
        return _changed_base("abf", geometry, factor, rope_theta, {"rope_theta": rope_theta})
    index = last if pair is None else pair
    if not 1 <= index <= last:
        raise UsageError(
            f"abf: pair={index} does not depend on the base or does not exist",
            hint=f"give a pair in 1..{last}",
        )
    solved = _powered(geometry.rope_theta, factor, geometry.rotary_dim / (2 * index))
    return _changed_base("abf", geometry, factor, solved, {} if pair is None else {"pair": pair})
