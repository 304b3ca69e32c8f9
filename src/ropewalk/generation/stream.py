"""Text without end: sinks and a recent window, angles in float64, the model's length rule fixed for the window.

Streaming does not extend what a model can use. It keeps a model fluent for ever at a constant price; what left the
window is gone, and a question about it cannot be answered.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.caches import cache_bytes
from ropewalk.attention.sinks import SINKS, SinkCache
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.generation.pieces import Pieces
from ropewalk.generation.request import end_tokens
from ropewalk.generation.sampling import Sampler
from ropewalk.models.facts import read_facts
from ropewalk.models.live.exact import exact_positions
from ropewalk.models.live.regimes import find_regime, fixed_length
from ropewalk.models.live.rotary import alone, bare
from ropewalk.models.stretch import own_window

# Small beside any window: the first tokens of a piece lose at most so many of those that they may see.
_PIECE = 64


@contextlib.contextmanager
def streaming(model: Any, *, sinks: int = SINKS, window: int | None = None) -> Iterator[SinkCache]:
    """A fresh sink cache, in a block where the model computes exact angles at any position."""
    live = bare(model)
    length = None
    if find_regime(live) is not None:
        length = own_window(read_facts(live.config.to_dict())) if window is None else sinks + window
    with fixed_length(live, length), exact_positions(live):
        yield SinkCache(live, sinks=sinks, window=window, rule_fixed=True)


@dataclass
class Told:
    """What a stream has read and written so far. `loss` is the mean over the read tokens, in nats."""

    read: int = 0
    written: int = 0
    evicted: int = 0
    seconds: float = 0.0
    kv_bytes: int = 0
    nll: float = 0.0
    scored: int = 0

    @property
    def loss(self) -> float | None:
        """Mean over the tokens that were read, each given what the cache held; None where nothing was scored."""
        return self.nll / self.scored if self.scored else None

    def to_json(self) -> dict[str, Any]:
        """For `generate --stream --json`."""
        total = self.read + self.written
        return {
            "read_tokens": self.read,
            "tokens": self.written,
            "evicted_tokens": self.evicted,
            "seconds": self.seconds,
            "tokens_per_s": total / self.seconds if self.seconds > 0 else 0.0,
            "kv_bytes": self.kv_bytes,
            "loss": self.loss,
        }


class Stream:
    """An endless text on a model: `read` what comes, `write` what follows. Use it in a `with` block.

    `piece` is the number of tokens read at once: each of a piece sees at least `window - piece` tokens before it.
    """

    def __init__(
        self, model: Any, *, sinks: int = SINKS, window: int | None = None, piece: int = _PIECE
    ) -> None:
        if piece < 1:
            raise UsageError(f"piece={piece} holds no token", hint="use 1 or more")
        self.model, self.told = alone(model), Told()
        self._stack = contextlib.ExitStack()
        self.cache = self._stack.enter_context(streaming(self.model, sinks=sinks, window=window))
        self.piece = min(piece, self.cache.window)
        self._device = self.model.get_input_embeddings().weight.device
        self._last_V: Tensor | None = None
        self._takes_positions = "position_ids" in inspect.signature(type(self.model).forward).parameters

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> float:
        """Take in tokens; the sum of their losses in nats (the very first token of a stream has none)."""
        before = self.told.nll
        for first in range(0, len(ids), self.piece):
            piece = list(ids[first : first + self.piece])
            logits_TV = self._forward(piece)
            # The last piece's last row tells the first token of this one.
            rows = logits_TV[:-1] if self._last_V is None else torch.cat([self._last_V[None], logits_TV[:-1]])
            targets = torch.tensor(piece[len(piece) - len(rows) :], device=logits_TV.device)
            self._last_V = logits_TV[-1]
            if len(rows):
                losses = torch.nn.functional.cross_entropy(rows, targets, reduction="sum")
                self.told.nll += float(losses)
                self.told.scored += len(rows)
        self.told.read += len(ids)
        return self.told.nll - before

    @torch.inference_mode()
    def write(self, limit: int, sampler: Sampler, ends: set[int]) -> Iterator[int]:
        """Tokens that follow, one by one, up to `limit` or an end token; each stays in the stream."""
        if self._last_V is None:
            raise UsageError("a stream that has read nothing has nothing to go on", hint="read a token first")
        for _ in range(limit):
            token = sampler(self._last_V)[0]
            if token in ends:
                return
            # Taken in before it is shown: whoever stops listening leaves a stream that holds what was said.
            self._last_V = self._forward([token])[-1]
            self.told.written += 1
            yield token

    def _forward(self, piece: list[int]) -> Tensor:
        began = time.perf_counter()
        row_BT = torch.tensor([piece], dtype=torch.long, device=self._device)
        # True positions, evicted tokens counted: keys keep theirs in the cache, and only the sinks' are turned on.
        places = torch.arange(len(piece), device=self._device)[None] + self.cache.seen
        options = {"position_ids": places} if self._takes_positions else {}
        output = self.model(input_ids=row_BT, past_key_values=self.cache, use_cache=True, **options)
        logits_TV: Tensor = output.logits[0]
        if bool(torch.isnan(logits_TV[-1]).any()):
            raise RopewalkError(
                f"the model's output after {self.cache.seen} tokens is not a number",
                hint="try --dtype float32 and --attn eager",
            )
        self.told.seconds += time.perf_counter() - began
        self.told.kv_bytes, self.told.evicted = cache_bytes(self.cache), self.cache.evicted  # type: ignore[arg-type]
        return logits_TV.float()


@dataclass(frozen=True)
class Turn:
    """How a stream answers: at most `limit` tokens after each line, by this sampler."""

    limit: int
    sampler: Sampler
    stop_at_end: bool = True


def converse(stream: Stream, tokenizer: Any, lines: Iterator[str], turn: Turn) -> Iterator[str]:
    """Read line after line for ever; after each write up to an end token, the end of a line, or the turn's limit.

    Yields pieces of what is written. A line is read without special tokens; the first one opens the stream with them.
    """
    ends = end_tokens(stream.model, tokenizer) if turn.stop_at_end else set()
    opening = True
    for line in lines:
        ids = tokenizer(line, add_special_tokens=opening, verbose=False)["input_ids"]
        if not len(ids):
            continue
        opening = False
        stream.read(ids)
        if turn.limit:
            yield from _answer(stream, tokenizer, ids, turn, ends)


def _answer(stream: Stream, tokenizer: Any, ids: list[int], turn: Turn, ends: set[int]) -> Iterator[str]:
    pieces = Pieces(tokenizer, ids)
    for token in stream.write(turn.limit, turn.sampler, ends):
        piece = pieces.add(token)
        yield piece
        if "\n" in piece:
            return
    yield pieces.rest() + "\n"
