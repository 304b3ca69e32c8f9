"""A position map on a model: near and far attention merged by their log-sum-exp; no mask of a whole text is made.

Keys stay in the cache as the model rotated them, in any cache; the far zone's keys are turned further when they are
read, so that chunks, steps, crops and forks give what one forward gives. Axes: B rows, H heads, G key-value heads,
T queries, K keys, D head width, P rotated pairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
from ropewalk.attention.dual_chunk import DualChunkRoute
from ropewalk.attention.interface import Call, Route, routed
from ropewalk.attention.kernels import Part, attend, behind_a_past, merge
from ropewalk.attention.layer_tables import FittedTables, LayerNumbers, LayerTableRoute
from ropewalk.attention.rotation import Rotation, rotations
from ropewalk.attention.temperature import chosen_layers
from ropewalk.errors import UsageError
from ropewalk.models.live.rotary import bare
from ropewalk.position_maps import AnyMap, DualChunk, LayerTables, PositionMap, Zones


@dataclass(frozen=True, eq=False)
class FarZone:
    """The numbers of a far zone as tensors that a gradient reaches: `inv_freq` (P,) float64, the others scalars, or
    (layers, heads)."""

    inv_freq: Tensor
    log_discount: Tensor
    far_logits: Tensor
    sharpness: Tensor


@contextlib.contextmanager
def applied(model: Any, plan: AnyMap, fitted: FarZone | LayerNumbers | None = None) -> Iterator[None]:
    """Inside the block every layer that rotates and sees the whole context follows the map; others stay as they are.

    A text no longer than the map's exact part (the near zone; the whole window for zones and tables of layers) runs
    through the model's own attention, bit for bit. `fitted` takes the place of the numbers of zones or of tables of
    layers, for whoever fits them.
    """
    live = bare(model)
    found = rotations(live)
    layers = [index for index in chosen_layers(live, "full") if found[index] is not None]
    if not layers:
        raise UsageError(
            "no layer both rotates and sees the whole context: there is nothing to map",
            hint="windows of sliding layers do not grow",
        )
    routes: dict[int, Route] = {}
    shared: dict[tuple[float, ...], Route] = {}
    for index in layers:
        rotation = found[index]
        assert rotation is not None
        # Layers with one rotation share their tables of angles, unless the map has some for each.
        apart = index if isinstance(plan, LayerTables) else -1
        key = (*rotation.inv_freq.tolist(), rotation.start, float(rotation.interleaved), apart)
        if key not in shared:
            shared[key] = route_for(plan, rotation, index, fitted)
        routes[index] = shared[key]
    # Plain causal patterns come without a mask then, so that a mask in a call means padding.
    with routed(live, routes, split=True):
        yield


def route_for(
    plan: AnyMap, rotation: Rotation, layer: int = 0, fitted: FarZone | LayerNumbers | None = None
) -> Route:
    """The attention of one map for modules of one rotation, with those of `layer` where a map has numbers for each."""
    if isinstance(plan, LayerTables):
        if isinstance(fitted, LayerNumbers):
            return FittedTables(plan, rotation, layer, fitted)
        return LayerTableRoute(plan, rotation, layer)
    if isinstance(fitted, FarZone):
        return FittedZones(plan, rotation, fitted)
    if isinstance(plan, DualChunk):
        return DualChunkRoute(plan, rotation)
    return TwoZones(plan, rotation)


class TwoZones:
    """The route of a two-zone map."""

    def __init__(self, plan: PositionMap, rotation: Rotation) -> None:
        self.plan, self.rotation = plan, rotation
        inv_freq_P = rotation.inv_freq.cpu().numpy()
        self._keys = TurnedKeys(AngleTable(lambda places: plan.key_turn(inv_freq_P, places)), rotation)
        self._queries = AngleTable(lambda places: plan.query_turn(inv_freq_P, places))

    def __call__(self, call: Call) -> Tensor | None:
        query, key, value = call.query_BHTD, call.key_BHKD, call.value_BHKD
        total, tokens, near = key.shape[2], query.shape[2], self.plan.near
        if total <= self.plan.exact_until:
            self._keys.keep_to(call)
            return None
        refuse_unknown(call)
        scale = scaling(call)
        first = total - tokens
        if call.mask is not None:
            return self._masked(call, scale).transpose(1, 2)
        # The first query with a far zone; those before it see everything at its true distance.
        skip = max(0, self.plan.exact_until - first)
        sharp_query = self._sharpened(call, query[:, :, skip:], first + skip, total)
        far_query = self._far_query(call, sharp_query, first + skip)
        # The last `near` keys are in no query's far zone, not even the last one's.
        far_key = self._far_keys(call)[:, :, : total - near]
        far = behind_a_past(far_query, far_key, value[:, :, : total - near], scale)
        # The same added to every logit of a part moves its log-sum-exp alone: what it puts out stays.
        far = far[0], far[1] + self._offset(call, first + skip, total)
        out, _ = merge(banded(sharp_query, key, value, near, scale), far)
        return after_window(call, skip, out, scale)

    def _far_query(self, call: Call, query_BHTD: Tensor, first: int) -> Tensor:
        """Queries from index `first` on as the far zone takes them, the multiple of its logits in them."""
        turned = self.rotation.turned(query_BHTD, *self._queries.rows(first, query_BHTD))
        heads = getattr(self.plan, "head_far_logits", None)
        if heads is not None:
            return turned * torch.as_tensor(of_heads(heads, call)[:, None, None]).to(turned)
        return turned if self.plan.far_logits == 1.0 else turned * self.plan.far_logits

    def _sharpened(self, call: Call, query_BHTD: Tensor, first: int, total: int) -> Tensor:
        """Queries from index `first` on with what their distance past the window makes of all their logits in them."""
        heads = getattr(self.plan, "head_sharpness", None)
        if heads is None and self.plan.sharpness == 0.0:
            return query_BHTD
        power = self.plan.sharpness if heads is None else of_heads(heads, call)[:, None]
        times_BHT = np.exp(power * self.plan.growth(places_of(call, first, total))[:, None])
        return query_BHTD * torch.as_tensor(times_BHT).to(query_BHTD)[..., None]

    def _far_keys(self, call: Call) -> Tensor:
        return self._keys.all(call)

    def _offset(self, call: Call, first: int, total: int) -> Tensor:
        """What the far logits of queries from index `first` on get, (B, H, T), with 1 where all are alike."""
        plan, places_BT = self.plan, places_of(call, first, total)
        heads = getattr(plan, "head_log_discount", None)
        if heads is None:
            offsets_BHT = plan.offset(places_BT)[:, None]
        else:
            offsets_BHT = (
                float(plan.discount) - of_heads(heads, call)[:, None] * plan.growth(places_BT)[:, None]
            )
        return torch.as_tensor(offsets_BHT, dtype=torch.float32, device=call.query_BHTD.device)

    def _masked(self, call: Call, scale: float) -> Tensor:
        """The same behind a mask (padding): both zones with an additive mask of their own."""
        query, key, value = call.query_BHTD, call.key_BHKD, call.value_BHKD
        total, tokens = key.shape[2], query.shape[2]
        first = total - tokens
        places = torch.arange(total, device=query.device)
        distance_TK = places[first:, None] - places[None]
        allowed = allowed_by(call.mask)
        within_BT = torch.as_tensor(
            places_of(call, first, total) < self.plan.exact_until, device=query.device
        )
        near_BTK = (distance_TK < self.plan.near) | within_BT[:, None, :, None]
        near = additive(allowed & near_BTK, query.dtype)
        far = additive(allowed & ~near_BTK, query.dtype)
        query = self._sharpened(call, query, first, total)
        near_part = attend(query, key, value, scale, mask_TK=near)
        out, lse = attend(
            self._far_query(call, query, first), self._far_keys(call), value, scale, mask_TK=far
        )
        return merge(near_part, (out, lse + self._offset(call, first, total)))[0]


def of_heads(values_LH: Any, call: Call) -> Any:
    """The entries of a call's layer, one for each of its heads; refused where the model has others."""
    layers, heads = values_LH.shape
    wanted = call.query_BHTD.shape[1]
    if call.layer >= layers or heads != wanted:
        raise UsageError(
            f"zones for {layers} layers of {heads} heads on layer {call.layer} of {wanted} heads",
            hint="use the map with the model that it was fitted to",
        )
    return values_LH[call.layer]


class FittedZones(TwoZones):
    """Two zones whose far numbers are tensors: the same attention, with gradients into them."""

    def __init__(self, plan: AnyMap, rotation: Rotation, far: FarZone) -> None:
        if not isinstance(plan, Zones):
            raise UsageError(f"{plan.name} has no far zone to fit", hint="fit zones")
        super().__init__(plan, rotation)
        self._far = far

    def _far_query(self, call: Call, query_BHTD: Tensor, first: int) -> Tensor:
        turned = self._turned(query_BHTD, first - self.plan.near)
        logits = self._far.far_logits.to(turned)
        return turned * (of_heads(logits, call)[:, None, None] if logits.dim() else logits)

    def _far_keys(self, call: Call) -> Tensor:
        return self._turned(call.key_BHKD, 0)

    def _sharpened(self, call: Call, query_BHTD: Tensor, first: int, total: int) -> Tensor:
        return (
            query_BHTD * self._grown(self._far.sharpness, call, first, total).exp().to(query_BHTD)[..., None]
        )

    def _offset(self, call: Call, first: int, total: int) -> Tensor:
        return float(self.plan.discount) - self._grown(self._far.log_discount, call, first, total)

    def _grown(self, power: Tensor, call: Call, first: int, total: int) -> Tensor:
        """A number, or one of each head, times the growth of queries from index `first` on, (B, H or 1, T)."""
        growth = self.plan.growth(places_of(call, first, total))
        growth_B1T = torch.as_tensor(growth, dtype=torch.float32, device=call.query_BHTD.device)[:, None]
        power = power.to(growth_B1T)
        return (of_heads(power, call)[:, None] if power.dim() else power) * growth_B1T

    def _turned(self, states_BHTD: Tensor, first: int) -> Tensor:
        change_P = self._far.inv_freq - self.rotation.inv_freq.to(self._far.inv_freq)
        return self.rotation.turned_by_change(states_BHTD, first, change_P)


def banded(query_BHTD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, near: int, scale: float) -> Part:
    """Causal attention to the nearest `near` keys, the query's own included, a block of queries at a time."""
    total, tokens = key_BGKD.shape[2], query_BHTD.shape[2]
    parts = []
    # A block as wide as the band: however long the text is, a mask has less than 2 * near columns.
    for begin in range(total - tokens, total, near):
        end = min(begin + near, total)
        query = query_BHTD[:, :, begin - total + tokens : end - total + tokens]
        low = max(0, begin - near + 1)
        key, value = key_BGKD[:, :, low:end], value_BGKD[:, :, low:end]
        if end - begin == 1:
            parts.append(attend(query, key, value, scale))
        elif low == begin:
            parts.append(attend(query, key, value, scale, causal=True))
        else:
            places = torch.arange(low, end, device=query.device)
            distance_TK = places[begin - low :, None] - places[None]
            mask = additive((distance_TK >= 0) & (distance_TK < near), query.dtype)
            parts.append(attend(query, key, value, scale, mask_TK=mask))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part[0] for part in parts], dim=2), torch.cat([part[1] for part in parts], dim=2)
