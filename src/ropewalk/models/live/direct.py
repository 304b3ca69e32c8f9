"""Writing frequencies straight into the live rotary modules, for schedules that stock configurations cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ropewalk.errors import RopewalkError
from ropewalk.models.facts import ModelFacts
from ropewalk.models.live.rotary import FLAT, key, labels_of, rotary_modules
from ropewalk.models.live.state import Patch
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.schedule import FrequencySchedule

BUFFERS = ("inv_freq", "original_inv_freq")


def write(
    live: Any, facts: ModelFacts, schedules: Mapping[str, FrequencySchedule], target_length: int, patch: Patch
) -> None:
    """Copy each layer type's schedule into every text rotary module that serves it, and raise the model's length.

    The module is told that its type is `default`, so that no forward recomputes what was written.
    """
    text = text_config(live, facts)
    for path, module in rotary_modules(live).items():
        if not belongs(module, text):
            continue
        for label in labels_of(module):
            schedule = schedules.get(label or DEFAULT)
            if schedule is not None:
                _write_module(path, module, label, schedule, patch)
    names = ("max_position_embeddings", "n_positions")
    name = next((name for name in names if isinstance(vars(text).get(name), int)), None)
    if name is not None and getattr(text, name) < target_length:
        patch.set(vars(text), name, target_length)


def _write_module(path: str, module: Any, label: str, schedule: FrequencySchedule, patch: Patch) -> None:
    if schedule.short_inv_freq is not None and not (schedule.short_inv_freq == schedule.inv_freq).all():
        raise RopewalkError(
            f"method {schedule.method!r} has a second set for short inputs, which this model's configuration cannot "
            "hold",
            hint="use a method with one set of frequencies",
        )
    values = torch.tensor(schedule.inv_freq, dtype=torch.float64).to(torch.float32)
    for name in (key(label, buffer) for buffer in BUFFERS):
        old = module._buffers.get(name)
        if old is None:
            continue
        if old.shape != values.shape:
            raise RopewalkError(
                f"{path}.{name} has {old.numel()} frequencies, the schedule {values.numel()}",
                hint="make the schedule from the model's own geometry",
            )
        patch.set(module._buffers, name, values.to(old.device).clone())
    patch.set(vars(module), key(label, "attention_scaling"), schedule.attention_factor)
    # The second set of an earlier longrope, which stock code keeps here and would switch to.
    patch.drop(vars(module), key(label, "long_inv_freq"))
    kind = vars(module).get("rope_type")
    if isinstance(kind, dict):
        patch.set(vars(module), "rope_type", kind | {label: "default"})
    elif isinstance(kind, str) and label == FLAT:
        patch.set(vars(module), "rope_type", "default")


def text_config(live: Any, facts: ModelFacts) -> Any:
    """The configuration object of the text model inside a live one."""
    config = live.config
    for part in facts.text_path:
        config = getattr(config, part)
    return config


def belongs(module: Any, text: Any) -> bool:
    """Whether a rotary module rotates the text decoder: towers carry configurations of other classes."""
    config = getattr(module, "config", None)
    return config is None or type(config) is type(text)
