"""What the routes of position maps share: tables of angles, a call's scale, places and masks, what they cannot serve.

Axes: B rows, H heads, T queries, K keys, D head width, P rotated pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.interface import Call
from ropewalk.attention.kernels import behind_a_past
from ropewalk.attention.rotation import Rotation
from ropewalk.attention.temperature import scaling_of
from ropewalk.errors import UsageError

_UNKNOWN = ("s_aux", "softcap", "position_bias")


class AngleTable:
    """Cosines and sines of the angles at positions 0, 1, ..., made in float64 as far as they are needed."""

    def __init__(self, angles: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
        self._angles = angles
        self._made: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def rows(self, first: int, like_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (T, P) for as many positions as `like_BHTD` has tokens, from `first` on."""
        device, last = like_BHTD.device, first + like_BHTD.shape[2]
        made = self._made.get(device)
        if made is None or len(made[0]) < last:
            # Twice what is asked for: a text that grows token by token makes the table anew at doublings only.
            angles = self._angles(np.arange(max(1024, 2 * last), dtype=np.float64))
            # Cosines before the cast: in float32 an angle of thousands of turns has few digits left for its phase.
            made = self._made[device] = (
                torch.as_tensor(np.cos(angles), dtype=torch.float32, device=device),
                torch.as_tensor(np.sin(angles), dtype=torch.float32, device=device),
            )
        return made[0][first:last], made[1][first:last]


class TurnedKeys:
    """The keys of a call turned by a table. Behind a cache of ours they are kept beside it and turned only once.

    What is kept is good up to the call's own tokens: those before them were there at the call before, because every
    update of a cache is followed by the attention that it was made for. Other caches' keys are turned at every call.
    """

    def __init__(self, table: AngleTable, rotation: Rotation) -> None:
        self._table, self._rotation = table, rotation

    def keep_to(self, call: Call) -> None:
        """Say that a call has happened without its keys: what was cut off meanwhile is not to be trusted."""
        layer = _layer_of(call)
        if layer is not None and layer.turned is not None and layer.turned.owner is self:
            layer.turned.count = min(layer.turned.count, call.key_BHKD.shape[2] - call.query_BHTD.shape[2])

    def all(self, call: Call) -> Tensor:
        """Every key of the call, turned, (B, G, K, D)."""
        key, layer = call.key_BHKD, _layer_of(call)
        # A backward pass needs these keys as they were, and the kept ones are written in place.
        if layer is None or torch.is_grad_enabled():
            return self._turn(key, 0)
        self.keep_to(call)
        kept = layer.turned
        # Another map, or another number of rows, has no use for what the last one turned.
        if kept is None or kept.owner is not self or kept.states.shape[0] != key.shape[0]:
            kept = layer.turned = _Kept(self, key.new_empty(*key.shape[:2], 0, key.shape[3]), 0)
        total = key.shape[2]
        if kept.states.shape[2] < total:
            room = layer.capacity if total <= layer.capacity else total * 3 // 2
            wider = key.new_empty(*key.shape[:2], room, key.shape[3])
            wider[:, :, : kept.count] = kept.states[:, :, : kept.count]
            kept.states = wider
        kept.states[:, :, kept.count : total] = self._turn(key[:, :, kept.count :], kept.count)
        kept.count = total
        states: Tensor = kept.states[:, :, :total]
        return states

    def _turn(self, key_BGKD: Tensor, first: int) -> Tensor:
        return self._rotation.turned(key_BGKD, *self._table.rows(first, key_BGKD))


@dataclass
class _Kept:
    """Turned keys of one layer: `count` of them are good."""

    owner: TurnedKeys
    states: Tensor
    count: int

    @property
    def num_bytes(self) -> int:
        """Bytes of those that are good."""
        return self.states[:, :, : self.count].numel() * self.states.element_size()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        # A fork's keys belong to the same map.
        return _Kept(self.owner, self.states.clone(), self.count)


def _layer_of(call: Call) -> Any:
    """The cache layer of ours that the call's keys are a view of, or None."""
    reference = getattr(call.key_BHKD, "ropewalk_layer", None)
    return None if reference is None else reference()


def scaling(call: Call) -> float:
    """What the call multiplies its logits by."""
    return scaling_of(call.module, call.options)


def refuse_unknown(call: Call) -> None:
    """Refuse what two attentions would have to know of: learned sinks, capped logits, biases, borders, dropout."""
    for name in _UNKNOWN:
        if call.options.get(name) is not None:
            raise UsageError(
                f"{type(call.module).__name__} uses {name}, which position maps do not serve",
                hint="compare schedules on this model instead",
            )
    if call.options.get("cu_seq_lens_q") is not None:
        raise UsageError("packed documents under a position map", hint="give one text a row")
    if call.module.training and call.options.get("dropout"):
        raise UsageError("attention dropout under a position map", hint="set attention_dropout to 0")


def after_window(call: Call, skip: int, out_BHTD: Tensor, scale: float) -> Tensor:
    """What the queries after the first `skip` put out, behind what those see: every key as the model rotated it."""
    if skip:
        end = call.key_BHKD.shape[2] - call.query_BHTD.shape[2] + skip
        query, key, value = (
            call.query_BHTD[:, :, :skip],
            call.key_BHKD[:, :, :end],
            call.value_BHKD[:, :, :end],
        )
        out_BHTD = torch.cat([behind_a_past(query, key, value, scale)[0], out_BHTD], dim=2)
    return out_BHTD.transpose(1, 2).contiguous()


def places_of(call: Call, first: int, total: int) -> np.ndarray[Any, Any]:
    """The positions of the queries from index `first` on, (B, T) or (1, T)."""
    given = call.options.get("position_ids")
    if given is not None and call.mask is not None:
        # Padding shifts a row's positions against its indices.
        return np.asarray(given[:, first - total :].double().cpu().numpy())
    return np.arange(first, total, dtype=np.float64)[None]


def allowed_by(mask: Tensor) -> Tensor:
    """Which keys a mask lets a query see, whether it says so in truth values or in what it adds to logits."""
    return mask if mask.dtype == torch.bool else mask > -1e4


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen; far below every logit, but finite, where it is not: a row may have no key at all."""
    # A quarter of the type's own lowest: added to logits it stays finite, and so does the log-sum-exp of nothing else.
    # float32's, cast to float16, is minus infinity, and a part without keys would count as much as one with.
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min / 4)
