"""GPT-J, CodeGen, RoFormer: rotation by a table of sines and cosines, rebuilt in memory at the wanted length.

Each row is a position, the first half sines, the second half cosines. The base 10000 is written in their code and no
configuration reaches it, so a schedule lives in memory only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ropewalk.models.live.state import Patch
from ropewalk.schedule import FrequencySchedule

BUFFER = "embed_positions"


def has_tables(live: Any) -> bool:
    """Whether a model rotates by tables."""
    return any(True for _ in table_modules(live))


def table_modules(live: Any) -> Iterator[tuple[str, Any]]:
    """Every module that owns a table, with its path."""
    for path, module in live.named_modules():
        buffer = module._buffers.get(BUFFER)
        # RoFormer's table is the weight of an embedding, not a buffer.
        if (buffer is not None and buffer.dim() == 2) or "RoFormerSinusoidal" in type(module).__name__:
            yield path, module


def table_of(module: Any) -> Any:
    """The (position, sines | cosines) tensor of a module."""
    buffer = module._buffers.get(BUFFER)
    return module.weight if buffer is None else buffer


def write(live: Any, schedule: FrequencySchedule, target_length: int, patch: Patch) -> None:
    """Rebuild every table with at least `target_length` rows; under the identity the rows there are stay."""
    built: dict[Any, torch.Tensor] = {}
    for _, module in table_modules(live):
        old = table_of(module)
        rows = max(target_length, old.shape[0])
        made = built.setdefault((rows, old.dtype, old.device), _table(schedule, rows, old))
        if made.shape == old.shape and torch.equal(made, old):
            continue
        if BUFFER in module._buffers:
            patch.set(module._buffers, BUFFER, made)
            patch.set(vars(module), "max_positions", rows)
        else:
            patch.set(module._parameters, "weight", torch.nn.Parameter(made, requires_grad=False))
            patch.set(vars(module), "num_embeddings", rows)
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(vars(live.config).get(name), int) and vars(live.config)[name] < target_length:
            patch.set(vars(live.config), name, target_length)


def _table(schedule: FrequencySchedule, rows: int, old: Any) -> Any:
    """Angles in float64, so that rows far out are exact; under the identity the first rows stay the model's own."""
    angles = np.arange(rows, dtype=np.float64)[:, None] * schedule.inv_freq
    values = np.concatenate((np.sin(angles), np.cos(angles)), axis=1) * schedule.attention_factor
    made = torch.tensor(values, dtype=torch.float64).to(old.dtype).to(old.device)
    if schedule.is_identity:
        made[: old.shape[0]] = old.detach()
    return made
