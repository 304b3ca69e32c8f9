"""Slow pairs damped or stopped: these change what the model learnt and need training."""

from __future__ import annotations

import numpy as np

from ropewalk.geometry import RopeGeometry
from ropewalk.methods.build import from_frequencies, rotating, share_of
from ropewalk.methods.registry import method
from ropewalk.schedule import FrequencySchedule


@method("cope", paper="arXiv:2602.05258", needs_training=True, stops_pairs=True)
def cope(geometry: RopeGeometry, *, factor: float, share: float = 0.75) -> FrequencySchedule:
    """The last N pairs times (1 + cos phi)/2, phi from 0 to pi; N = share of the pairs that never complete a turn.

    The very last pair stops. The factor only names the length that the schedule is meant for.

    Parameters:
        share: the part of the pairs without a whole turn that is damped.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> cope(geometry, factor=4.0, share=1.0).stretch.round(3).tolist()
    [1.0, 1.0, 1.0, inf]
    """
    share_of("cope: share", share)
    inv_freq = rotating(geometry).copy()
    count = round(share * int(np.sum(geometry.rotations[: geometry.num_rotating] < 1.0)))
    notes: tuple[str, ...] = ()
    if count:
        # A single pair is the last one, which stops. numpy's cos(pi) is -1 exactly, so that the last is a true zero.
        phase = np.linspace(0.0, np.pi, count) if count > 1 else np.array([np.pi])
        inv_freq[-count:] *= (1.0 + np.cos(phase)) / 2.0
    else:
        notes = ("every pair completes a turn in the window: nothing to damp",)
    return from_frequencies("cope", geometry, factor, inv_freq, parameters={"share": share}, notes=notes)


@method("p-rope", paper="arXiv:2410.06205", needs_training=True, stops_pairs=True)
def p_rope(geometry: RopeGeometry, *, factor: float, share: float = 0.25) -> FrequencySchedule:
    """The slowest `share` of the pairs stop (frequency 0), the rest stay.

    Stopped pairs carry content without position. Needs training.

    Parameters:
        share: the part of the pairs that stops.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> p_rope(geometry, factor=4.0).stretch.round(3).tolist()
    [1.0, 1.0, 1.0, inf]
    """
    share_of("p-rope: share", share)
    inv_freq = rotating(geometry).copy()
    stopped = round(share * inv_freq.size)
    # Not [-stopped:], which would be every pair where none is to stop.
    inv_freq[inv_freq.size - stopped :] = 0.0
    return from_frequencies("p-rope", geometry, factor, inv_freq, parameters={"share": share})


@method("drope", paper="arXiv:2512.12167", needs_training=True, stops_pairs=True)
def drope(geometry: RopeGeometry, *, factor: float) -> FrequencySchedule:
    """Every pair stops: positions are dropped altogether, and a short recalibration is needed.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> drope(geometry, factor=4.0).stretch.round(3).tolist()
    [inf, inf, inf, inf]
    """
    return from_frequencies("drope", geometry, factor, np.zeros_like(rotating(geometry)))


@method("proportional", paper="Gemma, 2026", needs_training=True, stops_pairs=True)
def proportional(geometry: RopeGeometry, *, factor: float, share: float = 0.25) -> FrequencySchedule:
    """Only the first `share` of the pairs rotate, each by theta_i / s; the exponent still runs over the whole head.

    A model already built this way (its geometry is proportional) keeps its own share. On any other model the tail
    is stopped, which needs training.

    Parameters:
        share: the part of the pairs that goes on rotating.

    >>> geometry = RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    >>> proportional(geometry, factor=4.0, share=0.5).stretch.round(3).tolist()
    [4.0, 4.0, inf, inf]
    """
    share_of("proportional: share", share)
    inv_freq = rotating(geometry) / factor
    if geometry.proportional:
        # Its tail stands still already, and no share given here would make those pairs turn or others stop.
        share = geometry.partial_rotary_factor
    else:
        inv_freq[int(share * geometry.rotary_dim // 2) :] = 0.0
    native = {"type": "proportional"} if geometry.proportional else None
    parameters = {"share": share}
    return from_frequencies("proportional", geometry, factor, inv_freq, parameters=parameters, native=native)
