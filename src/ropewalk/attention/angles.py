"""What the routes of position maps share: tables of angles, the scale of a call, what they cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.interface import Call
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
            angles = self._angles(np.arange(max(1024, 2 * last), dtype=np.float64))
            made = self._made[device] = (
                torch.as_tensor(np.cos(angles), dtype=torch.float32, device=device),
                torch.as_tensor(np.sin(angles), dtype=torch.float32, device=device),
            )
        return made[0][first:last], made[1][first:last]


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
