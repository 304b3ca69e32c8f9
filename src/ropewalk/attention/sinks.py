"""A cache for endless text: the first tokens (sinks) and a recent window, nothing else.

Positions are counted inside the cache: a query sees the window at its true distances, and the sinks right before the
window, however long ago they were. So no distance ever exceeds sinks + window. Recent keys are never turned again; the
few sink keys are, at every step, by an angle computed in float64 from the number of tokens that were evicted. What was
evicted is gone: the model cannot use it, and no window was extended.
Axes: B rows, H key-value heads, T tokens, D head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropewalk.attention.caches import masks_windows
from ropewalk.attention.rotation import Cached, cached_rotations
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import read_facts
from ropewalk.models.live.regimes import find_regime
from ropewalk.models.live.rotary import bare
from ropewalk.models.stretch import own_window

SINKS = 4


class SinkLayer(DynamicLayer):
    """One layer's sinks and window in one buffer of constant size.

    `keys` and `values` are views: the sinks, then the window. Tokens come in pieces of at most `window`; before a piece
    is added as many old tokens leave as it needs, so that every query of it sees at most the window.
    """

    is_croppable = False

    def __init__(self, sinks: int, window: int, cached: Cached | None) -> None:
        super().__init__()
        self.sinks, self.window, self.cached = sinks, window, cached
        self.seen = 0
        self._start = self._end = 0
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._sinks: dict[str, Tensor] | None = None

    @property
    def evicted(self) -> int:
        """Tokens that are gone."""
        return max(0, self.seen - self.sinks - self.window)

    @property
    def allocated_bytes(self) -> int:
        """What the layer holds, whether filled or not; it never grows."""
        parts = [*(self._buffers or ()), *(self._sinks or {}).values()]
        return sum(part.numel() * part.element_size() for part in parts)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in a piece; the keys and values that its queries may see."""
        tokens = key_states.shape[-2]
        self._check(tokens)
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            room = self.sinks + 2 * self.window
            self._buffers = tuple(  # type: ignore[assignment]
                new.new_zeros((*new.shape[:-2], room, new.shape[-1])) for new in (key_states, value_states)
            )
        assert self._buffers is not None
        if self._end + tokens > self._buffers[0].shape[-2]:
            self._rewind(tokens)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._end : self._end + tokens, :] = new
        self._end += tokens
        self.seen += tokens
        self._start = max(0, self._end - self.sinks - self.window)
        self._keep_sinks()
        self.keys, self.values = (buffer[..., self._start : self._end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _check(self, tokens: int) -> None:
        if self.seen + tokens > self.sinks + self.window and tokens > self.window:
            raise UsageError(
                f"{tokens} tokens at once do not pass through a window of {self.window}",
                hint="feed the text in pieces (prefill_chunk_size in model.generate), or widen the window",
            )

    def _rewind(self, tokens: int) -> None:
        """Move what stays to the front of the buffer: once in a window's worth of tokens."""
        assert self._buffers is not None
        # The piece itself takes the rest of the window.
        keep = max(0, self.window - tokens)
        for buffer in self._buffers:
            buffer[..., self.sinks : self.sinks + keep, :] = buffer[
                ..., self._end - keep : self._end, :
            ].clone()
        self._end = self.sinks + keep

    def _keep_sinks(self) -> None:
        """Put the sinks, turned by the tokens that are gone, right before the window."""
        if not self.sinks or not self.evicted:
            return
        assert self._buffers is not None
        names = ("keys", "values")
        if self._sinks is None:
            # The first eviction: the buffer still begins with the beginning.
            parts = (buffer[..., : self.sinks, :].clone() for buffer in self._buffers)
            self._sinks = dict(zip(names, parts, strict=True))
        place = slice(self._start, self._start + self.sinks)
        for name, buffer in zip(names, self._buffers, strict=True):
            # From the sinks as they were read, at every step: turned step by step they would gather roundings.
            kept = self._sinks[name]
            if self.cached is not None and self.cached.where == name:
                rotation = self.cached.rotation
                angles_TP = (self.evicted * rotation.inv_freq)[None].expand(self.sinks, -1)
                kept = rotation.turned_by(kept, angles_TP)
            buffer[..., place, :] = kept

    def get_seq_length(self) -> int:
        """Tokens seen so far, evicted ones included: what positions are counted from."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a piece of `query_length` tokens is given, and the index of the first of them."""
        total = self.seen + query_length
        kept = min(total, self.sinks + self.window)
        # The mask counts as if the sinks stood right before the window, which is where their angles put them.
        return kept, total - kept

    def get_max_length(self) -> int:
        """No maximum: old tokens leave."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: evicted tokens cannot come back."""
        if tokens_to_remove:
            raise RopewalkError(
                "a sink cache cannot be cropped: what was evicted is gone",
                hint="assisted decoding and going back need a full cache",
            )

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.is_initialized = False
        self.seen = self._start = self._end = 0
        self._buffers = self._sinks = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order, for beam search."""
        self._each_row(lambda item: item.index_select(0, beam_idx.to(item.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row several times."""
        self._each_row(lambda item: item.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some rows only."""
        self._each_row(lambda item: item[indices])

    def _each_row(self, change: Any) -> None:
        if self._buffers is None:
            return
        self._buffers = (change(self._buffers[0]), change(self._buffers[1]))
        if self._sinks is not None:
            self._sinks = {name: change(part) for name, part in self._sinks.items()}
        self.keys, self.values = (buffer[..., self._start : self._end, :] for buffer in self._buffers)


class SinkCache(Cache):
    """For `model.generate(..., past_key_values=SinkCache(model, sinks=4, window=2044))` and for loops of one's own.

    Layers with a window of their own keep it, recurrent layers their state. Rows must not be padded: the sinks are the
    first tokens of each row. Angles are as exact as the model's own: far out, wrap the loop in
    `ropewalk.exact_positions(model)`, because stock code multiplies position and frequency in float32.
    """

    def __init__(
        self, model: Any, *, sinks: int = SINKS, window: int | None = None, rule_fixed: bool = False
    ) -> None:
        live = bare(model)
        most = own_window(read_facts(live.config.to_dict()))
        window = most - sinks if window is None else window
        if sinks < 0 or window < 1 or sinks + window > most:
            raise UsageError(
                f"{sinks} sinks and a window of {window} do not fit the model's {most} tokens",
                hint="use 0 or more sinks and 1 or more tokens of window, or stretch the model first",
            )
        if find_regime(live) is not None and not rule_fixed:
            raise UsageError(
                "this model rotates by the length of the text, which here has no end",
                hint="use ropewalk.generation.stream.streaming(model), which fixes its rule for the window",
            )
        self.sinks, self.window = sinks, window
        found = cached_rotations(live)
        super().__init__(
            layers=[self._layer(*item, found, live) for item in enumerate(_stock_layers(live, found))]
        )

    def _layer(self, index: int, stock: Any, found: dict[int, Cached | None], live: Any) -> Any:
        # Where no mask keeps the window, the layer sees the whole text and needs sinks like any other.
        never_masked = type(stock) is DynamicSlidingWindowLayer and not masks_windows(live)
        if type(stock) is DynamicLayer or never_masked:
            return SinkLayer(self.sinks, self.window, found.get(index))
        return stock

    @property
    def seen(self) -> int:
        """Tokens read so far."""
        return self.get_seq_length()

    @property
    def evicted(self) -> int:
        """Tokens that are gone from the layers that see the whole context."""
        return max(0, self.seen - self.sinks - self.window)


def _stock_layers(live: Any, found: dict[int, Cached | None]) -> list[Any]:
    layers = list(DynamicCache(config=live.config).layers)
    # A configuration that names no layers gets them as they are written to; here they must be there at once.
    return layers or [DynamicLayer() for _ in range(max(found) + 1)]
