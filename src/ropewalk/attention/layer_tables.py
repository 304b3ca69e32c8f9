"""A table of frequencies for each layer, for queries past the original window; those inside keep the model's own.

Axes: B rows, H heads, G key-value heads, T queries, K keys, D head width, P rotated pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.angles import (
    AngleTable,
    TurnedKeys,
    additive,
    after_window,
    allowed_by,
    places_of,
    refuse_unknown,
    scaling,
)
from ropewalk.attention.interface import Call
from ropewalk.attention.kernels import attend, behind_a_past
from ropewalk.attention.rotation import Rotation
from ropewalk.errors import UsageError
from ropewalk.position_maps import LayerTables


@dataclass(frozen=True, eq=False)
class LayerNumbers:
    """The numbers of `LayerTables` as tensors that a gradient reaches: (layers, P) and (layers,), float64."""

    inv_freq: Tensor
    logits: Tensor


class LayerTableRoute:
    """The route of one layer. Keys and queries are turned by what the table adds to the model's own rotation."""

    def __init__(self, plan: LayerTables, rotation: Rotation, layer: int) -> None:
        wanted = len(rotation.inv_freq)
        if layer >= len(plan.inv_freq) or plan.inv_freq.shape[1] != wanted:
            raise UsageError(
                f"tables for {len(plan.inv_freq)} layers of {plan.inv_freq.shape[1]} pairs on layer {layer} of "
                f"{wanted} pairs",
                hint="use the map with the model that it was fitted to",
            )
        self.plan, self.rotation, self._layer = plan, rotation, layer
        change_P = plan.inv_freq[layer] - rotation.inv_freq.cpu().numpy()
        self._table = AngleTable(lambda places: np.outer(places, change_P))
        self._keys = TurnedKeys(self._table, rotation)

    def __call__(self, call: Call) -> Tensor | None:
        query, key, value = call.query_BHTD, call.key_BHKD, call.value_BHKD
        total, tokens, window = key.shape[2], query.shape[2], self.plan.exact_until
        if total <= window:
            self._keys.keep_to(call)
            return None
        refuse_unknown(call)
        scale, first = scaling(call), total - tokens
        keys = self._turned_keys(call)
        if call.mask is None:
            skip = max(0, window - first)
            queries = self._turned_queries(query[:, :, skip:], first + skip)
            return after_window(call, skip, behind_a_past(queries, keys, value, scale)[0], scale)
        # Padding: both ways for all queries, since a row's window may end anywhere.
        mask = additive(allowed_by(call.mask), query.dtype)
        inside_BT = torch.as_tensor(places_of(call, first, total) < window, device=query.device)
        own = attend(query, key, value, scale, mask_TK=mask)[0]
        turned = attend(self._turned_queries(query, first), keys, value, scale, mask_TK=mask)[0]
        return torch.where(inside_BT[:, None, :, None], own, turned).transpose(1, 2).contiguous()

    def _turned_keys(self, call: Call) -> Tensor:
        return self._keys.all(call)

    def _turned_queries(self, query_BHTD: Tensor, first: int) -> Tensor:
        """Queries from index `first` on, the multiple of the layer's logits in them."""
        turned = self.rotation.turned(query_BHTD, *self._table.rows(first, query_BHTD))
        return turned * float(self.plan.logits[self._layer])


class FittedTables(LayerTableRoute):
    """The same with tensors for numbers, and gradients into them."""

    def __init__(self, plan: LayerTables, rotation: Rotation, layer: int, numbers: LayerNumbers) -> None:
        super().__init__(plan, rotation, layer)
        self._numbers = numbers

    def _turned_keys(self, call: Call) -> Tensor:
        return self._turn(call.key_BHKD, 0)

    def _turned_queries(self, query_BHTD: Tensor, first: int) -> Tensor:
        return self._turn(query_BHTD, first) * self._numbers.logits[self._layer].to(query_BHTD)

    def _turn(self, states_BHTD: Tensor, first: int) -> Tensor:
        change_P = self._numbers.inv_freq[self._layer] - self.rotation.inv_freq.to(self._numbers.inv_freq)
        return self.rotation.turned_by_change(states_BHTD, first, change_P)
