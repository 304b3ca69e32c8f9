"""What is kept of a long text: everything, everything rounded, or sinks and a window. One name for each way.

    full          every key and value as it is
    q8, q4, q2    rounded to 8, 4 or 2 bits: keys by channel over 64 tokens, values by token over up to 64 channels,
                  each group with its own lowest value and step; the last 64 to 127 tokens as they are
    quanto4, quanto2, hqq8, hqq4, hqq2, fp8     transformers' own quantised caches, where their packages are there
    sinks:4+2k    the first 4 tokens and a window of 2048
    static        transformers' static cache: the room for the whole text taken at once, masked where it is empty
    kvpress:KnormPress:0.5    a press of kvpress over the prompt, half of its keys taken out; in `generate` alone
    offloaded     transformers' offloaded cache: on a GPU, layers wait in main memory until their turn

Axes: B rows, H key-value heads, T tokens, D head width, G groups.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropewalk.attention.caches import KIND, masks_windows
from ropewalk.attention.interface import attention_modules
from ropewalk.attention.presses import press_of, pressed
from ropewalk.attention.sinks import SinkCache
from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.models.facts import read_facts
from ropewalk.models.live.exact import exact_positions
from ropewalk.models.live.regimes import find_regime, fixed_length
from ropewalk.models.live.rotary import bare
from ropewalk.models.stretch import own_window
from ropewalk.planning.kept import GROUP
from ropewalk.units import parse_length

# Tokens read at once under any kind but `full`: what is read together sees itself unrounded.
PIECE = 64
_STOCK = re.compile(r"(quanto|hqq)(\d)|fp8")
_PRESS = re.compile(r"kvpress:(\w+)(?::([0-9.]+))?")
_SINKS = re.compile(r"sinks:(\d+)\+([0-9.]+[kKmM]?)")


@dataclass(frozen=True)
class CacheKind:
    """A way to keep keys and values. `piece` is the number of tokens that may be read at once, None for any."""

    name: str
    bits: int | None = None
    backend: str | None = None
    sinks: int | None = None
    window: int | None = None
    press: tuple[str, float] | None = None

    @property
    def whole_prompt(self) -> bool:
        """Whether a prompt must be read in one piece."""
        return self.press is not None

    @property
    def is_static(self) -> bool:
        """Whether it hands out all of its room, filled or not."""
        return self.name == "static"

    @property
    def piece(self) -> int | None:
        """How many tokens may be read at once, so that what is measured is the cache and not the chunk."""
        if self.name in ("full", "static", "offloaded") or self.press is not None:
            return None
        return PIECE if self.window is None else min(PIECE, self.window)

    def make(self, model: Any, capacity: int = 0) -> Any:
        """A fresh cache for a model; `capacity` is the number of tokens that a static one holds."""
        live = bare(model)
        if self.is_static:
            return StaticCache(config=live.config, max_cache_len=max(1, capacity))
        if self.press is not None:
            return DynamicCache(config=live.config)
        if self.name == "offloaded":
            if next(live.parameters()).device.type != "cuda":
                raise UsageError(
                    "an offloaded cache moves layers from a GPU to main memory, where this model is already",
                    hint="use full here, or --device cuda",
                )
            return DynamicCache(config=live.config, offloading=True)
        if self.sinks is not None:
            return SinkCache(live, sinks=self.sinks, window=self.window, rule_fixed=True)
        if self.backend is not None:
            return _stock(self, live)
        cache = DynamicCache(config=live.config)
        layers = cache.layers or [
            DynamicLayer() for _ in range(live.config.get_text_config().num_hidden_layers)
        ]
        bits = self.bits
        assert bits is not None
        never_masked = not masks_windows(live)
        cache.layers = [
            RoundedLayer(bits)
            if type(layer) is DynamicLayer or (never_masked and type(layer) is DynamicSlidingWindowLayer)
            else layer
            for layer in layers
        ]
        return cache

    @contextlib.contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Inside the block the engine reads this model through caches of this kind."""
        live = bare(model)
        if self.name == "full":
            yield
            return
        # A trial: a package or a device that is missing is told before anything is read.
        self.make(live)
        if (self.is_static or self.press is not None) and any(
            getattr(item, "_ropewalk_routes", ()) for item in attention_modules(live).values()
        ):
            raise UsageError(
                f"position maps count the keys that they are given, which {self.name} gives otherwise",
                hint="use the full cache under a map",
            )
        length = None
        # A rule by length would follow the whole text, while no distance here leaves sinks and window.
        if self.sinks is not None and find_regime(live) is not None:
            length = own_window(read_facts(live.config.to_dict()))
        exact = exact_positions(live) if self.sinks is not None else contextlib.nullcontext()
        pressing = contextlib.nullcontext() if self.press is None else pressed(live, press_of(*self.press))
        before = vars(live).get(KIND)
        with fixed_length(live, length), exact, pressing:
            vars(live)[KIND] = self
            try:
                yield
            finally:
                vars(live)[KIND] = before


def parse_kind(text: str) -> CacheKind:
    """A kind by its name.

    >>> parse_kind("sinks:4+2k").window
    2048
    """
    word = text.strip().lower()
    if word in ("full", "static", "offloaded"):
        return CacheKind(word)
    if word in ("q8", "q4", "q2"):
        return CacheKind(word, bits=int(word[1]))
    stock = _STOCK.fullmatch(word)
    if stock:
        return CacheKind(word, bits=int(stock[2] or 8), backend=stock[1] or "fp8")
    # Not the lowered word: the name of a press is that of a class.
    press = _PRESS.fullmatch(text.strip())
    if press:
        return CacheKind(text.strip(), press=(press[1], float(press[2] or 0.5)))
    sinks = _SINKS.fullmatch(word)
    if sinks:
        return CacheKind(word, sinks=int(sinks[1]), window=parse_length(sinks[2]))
    raise UsageError(
        f"cache {one_line(text, 40)!r} is unknown",
        hint="use full, q8, q4, q2, sinks:4+2k (sinks + window), static, offloaded, quanto4, hqq4, fp8 or kvpress:NAME",
    )


class RoundedLayer(DynamicLayer):
    """Old tokens in a few bits, the latest as they are. Every token is rounded once, when its block is full.

    A group's numbers become whole steps between its lowest and highest: x = low + step * q, q = 0 .. 2**bits - 1.
    """

    is_croppable = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self._blocks: list[tuple[Rounded, Rounded]] = []

    @property
    def allocated_bytes(self) -> int:
        """What is held: rounded blocks and the latest tokens."""
        parts = [part.num_bytes for block in self._blocks for part in block]
        latest = [] if self.keys is None else [self.keys, self.values]
        return sum(parts) + sum(item.numel() * item.element_size() for item in latest)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append; returns everything, old tokens as they are remembered."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        recalled = [tuple(part.recalled() for part in block) for block in self._blocks]
        latest_keys, latest_values = super().update(key_states, value_states)
        keys = torch.cat([*(block[0] for block in recalled), latest_keys], dim=-2)
        values = torch.cat([*(block[1] for block in recalled), latest_values], dim=-2)
        while self.keys.shape[-2] >= 2 * GROUP:
            block = self.keys[..., :GROUP, :], self.values[..., :GROUP, :]
            # Keys have channels that stand out in every token, values tokens that stand out in every channel.
            self._blocks.append((Rounded.of(block[0], self.bits, -2), Rounded.of(block[1], self.bits, -1)))
            self.keys, self.values = self.keys[..., GROUP:, :], self.values[..., GROUP:, :]
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens held, rounded or not."""
        return GROUP * len(self._blocks) + super().get_seq_length()

    def crop(self, tokens_to_remove: int) -> None:
        """Refused beyond the latest tokens: rounding cannot be taken back."""
        if abs(tokens_to_remove) > super().get_seq_length():
            raise RopewalkError("a rounded cache cannot be cropped into its blocks", hint="use a full cache")
        super().crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self._blocks = []
        super().reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row several times."""
        rows = torch.arange(self.keys.shape[0], device=self.keys.device).repeat_interleave(repeats)
        self.batch_select_indices(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some rows, in this order."""
        self._blocks = [(keys.rows(indices), values.rows(indices)) for keys, values in self._blocks]
        if self.keys is not None and self.keys.numel():
            self.keys, self.values = self.keys[indices], self.values[indices]


@dataclass(frozen=True, eq=False)
class Rounded:
    """Numbers in a few bits, several to a byte, with the lowest value and the step of each group."""

    packed: Tensor
    low: Tensor
    step: Tensor
    bits: int
    shape: torch.Size
    axis: int

    @classmethod
    def of(cls, states_BHTD: Tensor, bits: int, axis: int) -> Rounded:
        """Rounded in groups along one axis: all 64 tokens of a channel, or up to 64 channels of a token."""
        size = states_BHTD.shape[axis]
        # The widest group that leaves no rest: head widths need not be multiples of 64.
        group = next(width for width in (GROUP, 32, 16, 8, 4, 2, 1) if size % width == 0)
        parts = states_BHTD.unflatten(axis, (size // group, group)).float()
        low, high = parts.amin(axis, keepdim=True), parts.amax(axis, keepdim=True)
        # In the stored type before steps are counted: they are counted from where recalling begins.
        low = low.to(states_BHTD.dtype)
        step = ((high - low.float()) / (2**bits - 1)).to(states_BHTD.dtype)
        # A group of equal numbers has no step.
        whole = ((parts - low.float()) / step.float().clamp(min=1e-12)).round().clamp(0, 2**bits - 1)
        packed = _packed(whole.to(torch.uint8).flatten(), bits)
        return cls(packed, low, step, bits, parts.shape, axis)

    @property
    def num_bytes(self) -> int:
        """Bytes of the rounded numbers and of what belongs to their groups."""
        return sum(item.numel() * item.element_size() for item in (self.packed, self.low, self.step))

    def recalled(self) -> Tensor:
        """The numbers as they are remembered, (B, H, T, D)."""
        whole = _unpacked(self.packed, self.bits)[: self.shape.numel()].view(self.shape)
        values = (whole.float() * self.step.float() + self.low.float()).to(self.low.dtype)
        return values.flatten(self.axis - 1, self.axis)

    def rows(self, indices: Tensor) -> Rounded:
        """Some rows, in this order."""
        whole = _unpacked(self.packed, self.bits)[: self.shape.numel()].view(self.shape)[indices]
        groups = self.low[indices], self.step[indices]
        return Rounded(_packed(whole.flatten(), self.bits), *groups, self.bits, whole.shape, self.axis)


def _packed(whole_N: Tensor, bits: int) -> Tensor:
    many = 8 // bits
    padded = torch.nn.functional.pad(whole_N, (0, -len(whole_N) % many)).view(-1, many)
    return sum((padded[:, place] << (bits * place) for place in range(many)), torch.zeros_like(padded[:, 0]))


def _unpacked(packed_N: Tensor, bits: int) -> Tensor:
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed_N.device)
    return ((packed_N[:, None] >> places) & (2**bits - 1)).flatten()


def _stock(kind: CacheKind, live: Any) -> Any:
    from transformers import QuantizedCache

    given = {} if kind.backend == "fp8" else {"nbits": kind.bits}
    try:
        return QuantizedCache(kind.backend, live.config, **given)
    except (ImportError, ValueError, TypeError) as error:
        raise RopewalkError(
            f"transformers' cache {kind.name} is not to be had here ({one_line(error, 160)})",
            hint="install what it names, or use q4 or q8, which need nothing",
        ) from error
