"""The cheap way to another factor: cached keys are turned to the new frequencies, nothing is read again.

Exact in the first layer only: deeper keys and values came from hidden states that were made under the old frequencies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ropewalk.attention.rotation import Rotation, rotations


@contextlib.contextmanager
def turned(model: Any, cache: Any) -> Iterator[None]:
    """Whatever changes the model's rotation inside the block, the cached keys follow when it ends."""
    before = rotations(model)
    yield
    after = rotations(model)
    with torch.inference_mode():
        for index, layer in enumerate(cache.layers):
            old, new = before.get(index), after.get(index)
            if old is not None and new is not None and getattr(layer, "keys", None) is not None:
                _turn(layer, old, new)


def _turn(layer: Any, old: Rotation, new: Rotation) -> None:
    change_P = new.inv_freq - old.inv_freq
    scale = new.attention_factor / old.attention_factor
    if not bool(change_P.any()) and scale == 1.0:
        return
    total, kept = layer.get_seq_length(), layer.keys.shape[-2]
    positions_T = torch.arange(total - kept, total, dtype=torch.float64, device=layer.keys.device)
    angles_TP = positions_T[:, None] * change_P.to(positions_T.device)
    keys = new.turned_by(layer.keys, angles_TP)
    if scale != 1.0:
        places = slice(new.start, new.start + 2 * new.num_pairs)
        keys[..., places] = (keys[..., places].float() * scale).to(keys.dtype)
    layer.keys.copy_(keys)
