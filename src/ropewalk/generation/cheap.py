"""The cheap way to another factor: cached keys are turned to the new frequencies, nothing is read again.

Exact in the first layer only: deeper keys and values came from hidden states that were made under the old frequencies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ropewalk.attention.rotation import Cached, cached_rotations


@contextlib.contextmanager
def turned(model: Any, cache: Any) -> Iterator[None]:
    """Whatever changes the model's rotation inside the block, the cached keys follow when it ends."""
    before = cached_rotations(model)
    yield
    after = cached_rotations(model)
    # A session fills its cache in this mode, and such tensors are changed in place nowhere else.
    with torch.inference_mode():
        for index, layer in enumerate(cache.layers):
            old, new = before.get(index), after.get(index)
            if old is not None and new is not None and getattr(layer, old.where, None) is not None:
                _turn(layer, old, new)


def _turn(layer: Any, old: Cached, new: Cached) -> None:
    rotation, states = new.rotation, getattr(layer, new.where)
    change_P = rotation.inv_freq - old.rotation.inv_freq
    scale = rotation.attention_factor / old.rotation.attention_factor
    if not bool(change_P.any()) and scale == 1.0:
        return
    # A sliding layer has seen more tokens than it keeps, and those it keeps are the latest.
    total, kept = layer.get_seq_length(), states.shape[-2]
    positions_T = torch.arange(total - kept, total, dtype=torch.float64, device=states.device)
    angles_TP = positions_T[:, None] * change_P.to(positions_T.device)
    turned = rotation.turned_by(states, angles_TP)
    if scale != 1.0:
        # Only what is rotated: the factor came with cosines and sines, and the other entries never met them.
        places = slice(rotation.start, rotation.start + 2 * rotation.num_pairs)
        turned[..., places] = (turned[..., places].float() * scale).to(states.dtype)
    # In place: keys may be a view of a buffer that the next tokens are written to.
    states.copy_(turned)
