"""How each runtime carries a schedule: natively, through the universal carrier, or not exactly, and why.

What runtimes compute was measured: docs/formulas.md cites the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.methods.registry import RUNTIMES
from ropewalk.schedule import FrequencySchedule

_PLAIN_TYPES = ("none", "theta", "linear", "llama3")


@dataclass(frozen=True)
class Carriage:
    """`way` is native, carrier or none; `exact` says whether the runtime then computes this very schedule."""

    way: str
    exact: bool
    note: str = ""


def carriage(schedule: FrequencySchedule) -> dict[str, Carriage]:
    """Every runtime's way of carrying one schedule."""
    return {runtime: _one(runtime, schedule) for runtime in RUNTIMES}


def _one(runtime: str, schedule: FrequencySchedule) -> Carriage:
    kind = None if schedule.native is None else str(schedule.native["type"])
    if kind in _PLAIN_TYPES:
        return Carriage("native", True)
    if kind == "proportional":
        known = runtime == "transformers"
        return Carriage("native" if known else "none", known, "" if known else "no such rope type there")
    if kind == "yarn":
        return _yarn(runtime, schedule)
    if schedule.geometry.proportional:
        return Carriage("none", False, "the zero tail of a proportional rope has no carrier: apply in memory")
    return _carrier(runtime, schedule, "native" if kind == "longrope" else "carrier")


def _yarn(runtime: str, schedule: FrequencySchedule) -> Carriage:
    given = schedule.parameters
    plain_attention = math.isclose(
        schedule.attention_factor, 0.1 * math.log(schedule.factor) + 1.0, rel_tol=1e-9
    )
    betas = (given.get("beta_fast", 32.0), given.get("beta_slow", 1.0)) == (32.0, 1.0)
    truncated = bool(given.get("truncate", True))
    if runtime == "mlx" and not (truncated and (plain_attention or "mscale" in given)):
        return Carriage("none", False, "its yarn ignores attention_factor and truncate")
    if runtime == "llama.cpp" and not (betas and truncated and plain_attention):
        return Carriage(
            "carrier", True, "baked factors; as metadata its yarn ignores betas, truncate and temperature"
        )
    if runtime == "sglang" and not plain_attention:
        return Carriage("none", False, "it reads attn_factor as a multiplier, not attention_factor")
    return Carriage("native", True)


def _carrier(runtime: str, schedule: FrequencySchedule, way: str) -> Carriage:
    formula = longrope_attention_factor(schedule.factor, schedule.geometry.original_length)
    by_formula = math.isclose(schedule.attention_factor, formula, rel_tol=1e-9)
    two_sets = schedule.short_inv_freq is not None
    if runtime == "transformers":
        return Carriage(way, True)
    if runtime == "llama.cpp":
        note = (
            "one file a regime: the set is chosen by the context size, not the prompt"
            if two_sets
            else "baked factors"
        )
        return Carriage(way, True, note)
    if not by_formula:
        return Carriage(way, False, "it recomputes the attention factor as sqrt(1 + ln s / ln L)")
    if two_sets and runtime == "mlx":
        return Carriage(way, False, "it always uses the long set")
    return Carriage(way, True, "the set is chosen by the serving length, not the prompt" if two_sets else "")
