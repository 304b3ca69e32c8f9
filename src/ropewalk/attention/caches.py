"""Key-value caches for evaluation: grown in one buffer, cropped and forked without copying what stays.

Axes: B rows, H key-value heads, T tokens, D head width.
"""

from __future__ import annotations

import copy
import inspect
import sys
import weakref
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

# Where a model carries the kind of cache that it is to be read through (`attention.cache_kinds`); absent means full.
KIND = "_ropewalk_cache_kind"


class BufferedLayer(DynamicLayer):
    """A full-attention cache layer in one preallocated buffer.

    The stock layer concatenates, which copies everything at every chunk and holds it twice while it does.
    Here `keys` and `values` are views of the filled part, so that `crop` (inherited: a shorter view) costs
    nothing.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None
        # Keys turned once more for a position map, beside the keys themselves: see `attention.angles.TurnedKeys`.
        self.turned: Any = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        total = past + key_states.shape[-2]
        if self._buffers is None or total > self._buffers[0].shape[-2]:
            self._grow(key_states, value_states, past, total)
        assert self._buffers is not None
        filled = []
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., past:total, :] = new
            filled.append(buffer[..., :total, :])
        self.keys, self.values = filled
        # Whoever attends may keep something beside this layer: a weak reference, or the cache would outlive its use.
        self.keys.ropewalk_layer = weakref.ref(self)  # type: ignore[attr-defined]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Rows in another order, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row several times."""
        if self._buffers is not None:
            rows = torch.arange(self._buffers[0].shape[0], device=self._buffers[0].device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Some rows, in this order."""
        if self._buffers is None:
            return
        filled, self.turned = self.get_seq_length(), None
        keys, values = (buffer.index_select(0, indices.to(buffer.device)) for buffer in self._buffers)
        self._buffers = keys, values
        self.keys, self.values = keys[..., :filled, :], values[..., :filled, :]

    def _grow(self, keys: torch.Tensor, values: torch.Tensor, past: int, total: int) -> None:
        # Beyond what was asked for it grows by half, so that steps do not copy everything each time.
        room = self.capacity if total <= self.capacity else total if past == 0 else max(total, past * 3 // 2)
        grown = []
        for old, new in ((self.keys, keys), (self.values, values)):
            buffer = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
            if past:
                buffer[..., :past, :] = old
            grown.append(buffer)
        self._buffers = (grown[0], grown[1])


def masks_windows(model: Any) -> bool:
    """Whether the model's code masks its windows; some configurations carry a window that the code never looks at."""
    decoder = getattr(model, "model", model)
    try:
        source = inspect.getsource(sys.modules[type(decoder).__module__])
    except (OSError, TypeError, KeyError):
        return False
    return any(word in source for word in ("create_sliding_window_causal_mask", "create_chunked_causal_mask"))


def new_cache(model: Any, capacity: int, *, forkable: bool) -> DynamicCache:
    """An empty cache for `capacity` tokens of this model.

    A sliding-window layer keeps only its window. With `forkable` it keeps everything, because a window that
    has moved on cannot be cropped back; the attention mask still limits what is seen, so the numbers are the
    same. Inside `CacheKind.applied` it is a cache of that kind.
    """
    kind = vars(model).get(KIND)
    if kind is not None:
        made: DynamicCache = kind.make(model, capacity)
        return made
    cache = DynamicCache(config=model.config)
    forkable = forkable or not masks_windows(model)
    for index, layer in enumerate(getattr(cache, "layers", [])):
        if type(layer) is DynamicLayer or (forkable and type(layer) is DynamicSlidingWindowLayer):
            cache.layers[index] = BufferedLayer(capacity)
    if not cache.layers:
        # A configuration that names no layers: transformers makes each one when it is first written to.
        cache.layer_class_to_replicate = lambda: BufferedLayer(capacity)
    return cache


def croppable(cache: DynamicCache) -> bool:
    """Whether the cache can be taken back to a shorter text: recurrent and window layers cannot."""
    # The very types: a window layer is a DynamicLayer too, and has dropped what cropping would bring back.
    return all(type(layer) in (BufferedLayer, DynamicLayer, DummyLayer) for layer in cache.layers)


def copied(cache: DynamicCache) -> DynamicCache:
    """An independent copy."""
    return copy.deepcopy(cache)


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of the filled part of a cache, recurrent states included; of a layer of constant size, all of it."""
    total = 0
    for layer in cache.layers:
        if hasattr(layer, "allocated_bytes"):
            total += layer.allocated_bytes
            continue
        kept = getattr(layer, "turned", None)
        total += 0 if kept is None else kept.num_bytes
        for value in vars(layer).values():
            tensors = value if isinstance(value, list | tuple) else [value]
            # `keys` and `values` are views of these: only the filled part counts, and only once.
            if value is getattr(layer, "_buffers", None):
                continue
            total += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
    return total
