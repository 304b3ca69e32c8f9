"""The scaling that a configuration already asks for: a schedule on the ORIGINAL geometry, as stock code computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import schedule
from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.models.structure.ropes import STOCK_TYPES
from ropewalk.models.structure.values import is_number, number, shown
from ropewalk.schedule import FrequencySchedule

# The types whose rule needs the window before the stretch, and whose entries state it.
KEEPS_ORIGINAL = ("yarn", "llama3", "longrope")
# A pair that stands still cannot be written as a factor; at 1e30 it turns by less than 1e-20 radians in a billion
# tokens, whose cosine is 1 in every float type.
STOPPED_FACTOR = 1e30


def factor_of(entry: Mapping[str, Any], original_length: int, max_length: int) -> float:
    """The stretch that an entry asks for; where it gives none, max_position_embeddings over the original length."""
    kind = entry["rope_type"]
    if kind == "default":
        return 1.0
    value = entry.get("factor")
    if value is None:
        return 1.0 if kind == "proportional" else max_length / original_length
    return number("factor", value)


def current_schedule(
    entry: Mapping[str, Any], geometry: RopeGeometry, max_length: int
) -> tuple[FrequencySchedule | None, str | None]:
    """The schedule of an entry, or None with the reason: dynamic scaling has none, a broken entry cannot have one."""
    kind = str(entry["rope_type"])
    if kind == "dynamic":
        return None, "dynamic scaling picks its frequencies anew for each length"
    if kind not in STOCK_TYPES:
        return None, f"rope_type={shown(kind)} is not one that transformers knows"
    try:
        return _build(kind, entry, geometry, max_length), None
    except RopewalkError as error:
        return None, error.message
    except (ArithmeticError, ValueError) as error:
        # Extreme values overflow inside the formulas; stock code computes nonsense from them or dies.
        return None, f"its values cannot be computed with ({one_line(error, 80)})"


def _build(kind: str, entry: Mapping[str, Any], geometry: RopeGeometry, max_length: int) -> FrequencySchedule:
    factor = factor_of(entry, geometry.original_length, max_length)
    if kind == "default":
        return schedule("none", geometry, factor=1.0)
    if kind in ("linear", "proportional"):
        # A proportional entry's factor divides like linear's; its zero tail belongs to the geometry.
        return schedule("linear", geometry, factor=factor)
    if kind == "llama3":
        names: dict[str, Any] = {
            name: _required(entry, name) for name in ("low_freq_factor", "high_freq_factor")
        }
        return schedule("llama3", geometry, factor=factor, **names)
    if kind == "longrope":
        return _longrope(entry, geometry, factor)
    return yarn_schedule(entry, geometry, factor)


def yarn_schedule(entry: Mapping[str, Any], geometry: RopeGeometry, factor: float) -> FrequencySchedule:
    """YaRN as an entry's fields give it; fields that are unset keep the method's defaults."""
    given: dict[str, Any] = {}
    for name in ("beta_fast", "beta_slow"):
        # A zero counts as unset in stock code.
        if entry.get(name):
            given[name] = number(name, entry[name])
    for name in ("mscale", "mscale_all_dim", "attention_factor"):
        if entry.get(name) is not None:
            given[name] = number(name, entry[name])
    if entry.get("truncate") is not None:
        given["truncate"] = bool(entry["truncate"])
    return schedule("yarn", geometry, factor=factor, **given)


def _longrope(entry: Mapping[str, Any], geometry: RopeGeometry, factor: float) -> FrequencySchedule:
    """Built directly: stock code accepts lists that fall again, and must be described as it is."""
    long, short = (_factors(entry, name, geometry.half_dim) for name in ("long_factor", "short_factor"))
    given = entry.get("attention_factor")
    attention = (
        longrope_attention_factor(factor, geometry.original_length)
        if given is None
        else number("attention_factor", given)
    )
    lists = {
        f"{name}_factors": [float(value) for value in entry[f"{name}_factor"]] for name in ("long", "short")
    }
    return FrequencySchedule(
        method="longrope",
        geometry=geometry,
        # Stock code uses the factor for the attention factor alone and takes any; below 1 nothing is
        # stretched.
        factor=max(factor, 1.0),
        inv_freq=geometry.inv_freq / long,
        # Two equal lists are one set, and nothing switches.
        short_inv_freq=None if np.array_equal(long, short) else geometry.inv_freq / short,
        attention_factor=attention,
        parameters=lists,
        native={"type": "longrope"} | lists,
    )


def _factors(entry: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    values = entry.get(name)
    if not isinstance(values, list) or not all(is_number(value) and value > 0 for value in values):
        raise RopewalkError(f"{name} is not a list of positive numbers", hint="write one factor a pair")
    if len(values) != count:
        raise RopewalkError(
            f"{name} has {len(values)} entries for {count} pairs", hint="write one factor a pair"
        )
    factors = np.array(values, dtype=np.float64)
    # What the carrier writes for a pair that stands still reads back as one.
    factors[factors >= STOPPED_FACTOR] = np.inf
    return factors


def _required(entry: Mapping[str, Any], name: str) -> float:
    if entry.get(name) is None:
        raise RopewalkError(f"{name} is missing", hint=f"add {name} to the rotary entry")
    return number(name, entry[name])


def softmax_scale(entry: Mapping[str, Any], factor: float, *, scaled: bool) -> float:
    """What multiplies attention's 1/sqrt(d) besides: the square of 0.1 * mscale_all_dim * ln(factor) + 1 (DeepSeek).

    1 for models whose attention does not read mscale_all_dim, and wherever the rope type is `default`.
    """
    share = entry.get("mscale_all_dim")
    if not scaled or entry["rope_type"] == "default" or not is_number(share) or not share or factor <= 1.0:
        return 1.0
    one = 0.1 * float(share) * math.log(factor) + 1.0
    return one * one
