"""Dual-chunk attention: three parts (own chunk, the one before, all earlier) merged by their log-sum-exp.

Axes: B rows, H heads, G key-value heads, T queries, K keys, D head width, P rotated pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.angles import AngleTable, TurnedKeys, refuse_unknown, scaling
from ropewalk.attention.interface import Call
from ropewalk.attention.kernels import Part, attend, behind_a_past, merge
from ropewalk.attention.rotation import Rotation
from ropewalk.errors import UsageError
from ropewalk.position_maps import DualChunk


class DualChunkRoute:
    """The route of a dual-chunk map; queries are taken chunk by chunk, so that every part is a plain attention."""

    def __init__(self, plan: DualChunk, rotation: Rotation) -> None:
        self.plan, self.rotation = plan, rotation
        inv_freq_P, size, limit = rotation.inv_freq.cpu().numpy(), plan.chunk, plan.limit

        def table(place: object) -> AngleTable:
            return AngleTable(lambda places: np.outer(place(places) - places, inv_freq_P))  # type: ignore[operator]

        self._own = table(lambda places: places % size)
        self._keys = TurnedKeys(self._own, rotation)
        self._next = table(lambda places: np.minimum(places % size + size, limit - 1))
        self._far = table(lambda places: np.full_like(places, limit - 1))

    def __call__(self, call: Call) -> Tensor | None:
        query, key, value = call.query_BHTD, call.key_BHKD, call.value_BHKD
        total, tokens, size = key.shape[2], query.shape[2], self.plan.chunk
        if total <= size:
            self._keys.keep_to(call)
            return None
        refuse_unknown(call)
        # Chunks are counted from a row's first index, which padding shifts against its positions.
        if call.mask is not None:
            raise UsageError("padding under a dual-chunk map", hint="run rows one by one, without padding")
        keys = self._keys.all(call)
        parts, begin = [], total - tokens
        while begin < total:
            start = begin // size * size
            end = min(start + size, total)
            piece = query[:, :, begin - total + tokens : end - total + tokens]
            parts.append(self._chunk(piece, keys[:, :, :end], value[:, :, :end], begin, scaling(call)))
            begin = end
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()

    def _chunk(self, query: Tensor, keys: Tensor, values: Tensor, begin: int, scale: float) -> Tensor:
        """Queries from position `begin` on, all of one chunk."""
        size = self.plan.chunk
        start = begin // size * size
        own = self.rotation.turned(query, *self._own.rows(begin, query))
        # All keys stand at j mod chunk, so the own chunk's queries are turned with them: distances stay true.
        found: Part = behind_a_past(own, keys[:, :, start:], values[:, :, start:], scale)
        for table, low, high in ((self._next, start - size, start), (self._far, 0, start - size)):
            if high > max(0, low):
                turned = self.rotation.turned(query, *table.rows(begin, query))
                found = merge(found, attend(turned, keys[:, :, low:high], values[:, :, low:high], scale))
        return found[0]
