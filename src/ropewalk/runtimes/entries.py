"""Forms that programs reading a config.json share: what a rotary entry needs to be honoured for it to be exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ropewalk.methods.build import temperature
from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.models.structure.scaling import STOPPED_FACTOR
from ropewalk.runtimes.base import Job

STOPPED, NEW_KEYS = "stopped-pairs", "new-keys"
CONFIG_FORMS = {
    "default": "no scaling",
    "theta": "a changed rope_theta",
    "linear": "type linear",
    "llama3": "type llama3",
    "yarn": "type yarn with its usual betas, rounded bounds and 0.1 ln s + 1 on cos and sin",
    "yarn-attention": "yarn's attention_factor",
    "yarn-betas": "yarn's beta_fast and beta_slow",
    "yarn-truncate": "yarn's truncate: false",
    "yarn-mscale": "yarn's mscale and mscale_all_dim",
    "longrope": "type longrope, one set of factors, sqrt(1 + ln s / ln L) on cos and sin",
    "longrope-attention": "longrope's attention_factor",
    "longrope-two-sets": "longrope's two sets, the one for short prompts and the one for long ones",
    "proportional": "type proportional: a zero tail, and its own rope_theta",
    "proportional-factor": "proportional's factor",
    "dynamic": "type dynamic",
    STOPPED: "pairs that stand still, written as the factor 1e30",
    NEW_KEYS: "rope_parameters without the old keys beside it, in a config.json as it stands",
    "layers-all": "every layer type stretched, not the full-attention one alone",
}


def config_forms(job: Job) -> tuple[str, ...]:
    """Everything in the written entries that a program must honour, for all layers that they concern."""
    assert job.carried is not None
    found: list[str] = []
    for label, entry in job.carried.entries.items():
        made = job.carried.schedules[label]
        found += entry_forms(entry.values, made.geometry.rope_theta, job.target_length)
    if job.carried.entries.keys() - {job.facts.main}:
        found.append("layers-all")
    return tuple(sorted(set(found)))


def old_reader_forms(job: Job) -> tuple[str, ...]:
    """The same for a program that may know the old keys only."""
    forms = config_forms(job)
    assert job.carried is not None
    said = job.carried.old_dialect or forms == ("default",)
    return forms if said else tuple(sorted({*forms, NEW_KEYS}))


def entry_forms(entry: Mapping[str, Any], rope_theta: float, target_length: int) -> list[str]:
    """The forms of one entry; `rope_theta` is the model's own, `target_length` what max_position_embeddings says."""
    kind = str(entry["rope_type"])
    if kind == DEFAULT:
        return ["default" if entry["rope_theta"] == rope_theta else "theta"]
    if kind == "yarn":
        return yarn_forms(entry)
    if kind == "longrope":
        return longrope_forms(entry, target_length)
    if kind == "proportional" and float(entry.get("factor") or 1.0) != 1.0:
        return [kind, "proportional-factor"]
    return [kind]


def yarn_forms(entry: Mapping[str, Any]) -> list[str]:
    """`yarn`, and each field that departs from what every reader takes without being told."""
    found = ["yarn"]
    given = entry.get("attention_factor")
    pair = bool(entry.get("mscale")) and bool(entry.get("mscale_all_dim"))
    if given is not None and not _same(given, temperature(float(entry["factor"]))):
        found.append("yarn-attention")
    elif given is None and pair:
        # Equal ones cancel out to 1, which a reader that knows neither would not compute.
        found.append("yarn-mscale")
    if (entry.get("beta_fast") or 32.0, entry.get("beta_slow") or 1.0) != (32.0, 1.0):
        found.append("yarn-betas")
    if entry.get("truncate") is False:
        found.append("yarn-truncate")
    return found


def longrope_forms(entry: Mapping[str, Any], target_length: int) -> list[str]:
    """`longrope`, its attention factor where the formula would give another, and its second set where it differs."""
    found = ["longrope"]
    given = entry.get("attention_factor")
    if given is not None and not _same(given, formula_factor(entry, target_length)):
        found.append("longrope-attention")
    if entry.get("short_factor") != entry.get("long_factor"):
        found.append("longrope-two-sets")
    if STOPPED_FACTOR in [*(entry.get("short_factor") or ()), *(entry.get("long_factor") or ())]:
        found.append(STOPPED)
    return found


def formula_factor(entry: Mapping[str, Any], target_length: int) -> float:
    """The attention factor of programs that take the stretch from the two lengths: sqrt(1 + ln s / ln L)."""
    original = int(entry["original_max_position_embeddings"])
    return longrope_attention_factor(target_length / original, original)


def lengths(job: Job) -> dict[str, Any]:
    """The length keys of the text model as the carrier wrote them, where they changed or are always needed."""
    names = (
        "max_position_embeddings",
        "original_max_position_embeddings",
        "head_dim",
        "n_positions",
        "max_seq_len",
    )
    # The window always: an override document lies over a file that may still say the old one.
    before = job.facts.text
    return {
        name: job.text[name]
        for name in names
        if name in job.text and (job.text[name] != before.get(name) or name == "max_position_embeddings")
    }


def two_sets(job: Job) -> bool:
    """Whether short prompts have frequencies of their own."""
    return job.schedule.short_inv_freq is not None


def _same(one: Any, other: Any) -> bool:
    return math.isclose(float(one), float(other), rel_tol=1e-9)


def stops_pairs(job: Job) -> bool:
    """Whether the schedule stops pairs that turn in the model."""
    made = job.schedule
    # A partial rotation's tail stands still in the model itself, and asks nothing of a program.
    sets = [made.inv_freq] if made.short_inv_freq is None else [made.inv_freq, made.short_inv_freq]
    return any(bool(np.any((inv_freq == 0) & (made.geometry.inv_freq > 0))) for inv_freq in sets)
