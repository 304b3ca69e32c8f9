"""A text held in the cache: extended, cropped, forked, asked and continued. Axes: B rows, T tokens, V words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from ropewalk.attention.caches import cache_bytes, copied, croppable, new_cache
from ropewalk.errors import UsageError
from ropewalk.evaluation.forward.scored import Scored, check_finite, token_loss
from ropewalk.models.live.regimes import fixed_length

Ids = Sequence[int] | NDArray[Any] | torch.Tensor


class Logits(Protocol):
    """One chunk that has been read; its logits are made when they are asked for."""

    def logits(self, first: int, last: int) -> torch.Tensor:
        """Those at chunk positions first..last-1."""


class Reads(Protocol):
    """What a context needs of the engine that reads for it."""

    model: Any
    device: torch.device
    chunkable: bool

    @property
    def chunk(self) -> int:
        """Tokens of one forward."""

    def tensor(self, ids: Ids) -> torch.Tensor:
        """Token ids as (B, T), checked."""

    def read_chunk(self, ids_BT: torch.Tensor, cache: Any | None) -> Logits:
        """One forward, through a cache or without."""

    def slice_tokens(self, rows: int) -> int:
        """Positions whose logits are held at once."""

    def rope_length_for(self, length: int) -> int | None:
        """Where a rotation that depends on the length is fixed."""

    def guard(self) -> AbstractContextManager[None]:
        """Where the model runs."""


class Context:
    """A text in the cache (one row, or several rows of equal length).

    The last token is always kept out of the cache: whatever is asked next starts with its forward, so an
    answer's first token needs no pass of its own and going back to an earlier length recomputes nothing.
    """

    def __init__(self, engine: Reads, *, capacity: int, rope_length: int | None = None) -> None:
        self.engine = engine
        self.capacity = capacity
        self.rope_length = rope_length
        self.ids_BT = torch.empty(1, 0, dtype=torch.long, device=engine.device)
        self._cache = self._fresh()

    def _fresh(self) -> Any:
        """An empty cache, or None for a model that is read whole each time."""
        # Every question goes back to where the text ended, so that window layers must keep what they would drop.
        return new_cache(self.engine.model, self.capacity, forkable=True) if self.engine.chunkable else None

    @property
    def length(self) -> int:
        """Tokens in the text."""
        return self.ids_BT.shape[1]

    @property
    def rewinds(self) -> bool:
        """Whether going back to an earlier length costs nothing: a cache with recurrent layers must be copied."""
        return croppable(self._cache)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the filled cache."""
        return 0 if self._cache is None else cache_bytes(self._cache)

    @torch.inference_mode()
    def extend(self, ids: Ids) -> Context:
        """Append tokens, prefilling all but the very last one. Returns itself."""
        new_BT = self.engine.tensor(ids)
        if self.length and new_BT.shape[0] != self.ids_BT.shape[0]:
            raise UsageError(
                f"{new_BT.shape[0]} rows cannot extend {self.ids_BT.shape[0]}", hint="give one text a row"
            )
        if new_BT.shape[1] == 0:
            return self
        done = max(0, self.length - 1)
        self.ids_BT = torch.cat([self.ids_BT, new_BT], dim=1) if self.length else new_BT
        if not self.engine.chunkable:
            return self
        with self._running():
            for begin in range(done, self.length - 1, self.engine.chunk):
                end = min(begin + self.engine.chunk, self.length - 1)
                self.engine.read_chunk(self.ids_BT[:, begin:end], self._cache)
        return self

    def crop(self, length: int) -> Context:
        """Go back to the first `length` tokens. A model with recurrent state is prefilled again."""
        if not 0 <= length <= self.length:
            raise UsageError(f"cannot crop {self.length} tokens to {length}", hint="crop to a shorter length")
        if length == self.length:
            return self
        kept_BT = self.ids_BT[:, :length]
        # Both counts without their last token, which is in no cache.
        remove = max(0, self.length - 1) - max(0, length - 1)
        if not self.engine.chunkable or croppable(self._cache):
            if self.engine.chunkable:
                self._cache.crop(-remove)
            self.ids_BT = kept_BT
            return self
        self._cache = self._fresh()
        self.ids_BT = kept_BT[:, :0]
        return self.extend(kept_BT) if length else self

    def fork(self) -> Context:
        """An independent copy of the text and its cache."""
        other = Context(self.engine, capacity=self.capacity, rope_length=self.rope_length)
        other.ids_BT, other._cache = self.ids_BT.clone(), copied(self._cache)
        return other

    @torch.inference_mode()
    def score(self, ids: Ids) -> Scored:
        """Teacher-forced probability and greedy choices of a continuation, in one forward; the text stays."""
        if self.ids_BT.shape[0] != 1:
            raise UsageError("score takes one row", hint="use score_rows for several")
        return self.score_rows(ids)[0]

    @torch.inference_mode()
    def score_rows(self, ids: Ids) -> list[Scored]:
        """`score` with one continuation a row, all of the same number of tokens."""
        answer_BT = self.engine.tensor(ids)
        if self.length == 0 or answer_BT.shape[1] == 0:
            raise UsageError(
                "nothing to score: the text or the answer is empty", hint="give one token of each"
            )
        if answer_BT.shape[0] != self.ids_BT.shape[0]:
            raise UsageError(
                f"{answer_BT.shape[0]} answers for {self.ids_BT.shape[0]} rows", hint="give one a row"
            )
        fed_BT = torch.cat([self.ids_BT[:, -1:], answer_BT[:, :-1]], dim=1)
        losses, choices = [], []
        for logits_BTV, first, last in self.ask(fed_BT):
            losses.append(token_loss(logits_BTV, answer_BT[:, first:last]))
            choices.append(logits_BTV.argmax(dim=-1))
            check_finite(losses[-1], self.length + first)
        rows = zip(
            answer_BT.tolist(),
            torch.cat(losses, 1).neg().tolist(),
            torch.cat(choices, 1).tolist(),
            strict=True,
        )
        return [Scored(tuple(answer), tuple(logprobs), tuple(greedy)) for answer, logprobs, greedy in rows]

    @torch.inference_mode()
    def generate(self, max_tokens: int, *, stop: Sequence[int] = ()) -> list[int]:
        """Greedy continuation of a one-row text, up to a stop token (not included); the text stays."""
        if self.ids_BT.shape[0] != 1 or self.length == 0:
            raise UsageError("generate takes one row that is not empty", hint="extend the context first")
        before, written = self.length, list[int]()
        if not self.engine.chunkable:
            return self._generate_whole(max_tokens, stop)
        # What cannot be cut back to where it was is asked as a copy.
        cache = self._cache if croppable(self._cache) else copied(self._cache)
        token_BT = self.ids_BT[:, -1:]
        with self._running():
            for _ in range(max_tokens):
                logits_BTV = self.engine.read_chunk(token_BT, cache).logits(0, 1)
                # The largest stands for all of them: torch lets a NaN win every comparison.
                check_finite(logits_BTV.amax(-1), before + len(written))
                token_BT = logits_BTV.argmax(dim=-1)
                if int(token_BT) in stop:
                    break
                written.append(int(token_BT))
        if cache is self._cache:
            # Negative: transformers takes the tokens to remove, and refuses a length to keep.
            cache.crop(before - 1 - cache.get_seq_length())
        return written

    def _generate_whole(self, max_tokens: int, stop: Sequence[int]) -> list[int]:
        """Generation for a model that cannot go on from its cache: one forward of the whole text a token."""
        ids_BT, written = self.ids_BT, list[int]()
        with self._running():
            for _ in range(max_tokens):
                logits_BTV = self.engine.read_chunk(ids_BT, None).logits(ids_BT.shape[1] - 1, ids_BT.shape[1])
                check_finite(logits_BTV.amax(-1), ids_BT.shape[1] - 1)
                token_BT = logits_BTV.argmax(dim=-1)
                if int(token_BT) in stop:
                    break
                written.append(int(token_BT))
                ids_BT = torch.cat([ids_BT, token_BT], dim=1)
        return written

    def ask(self, fed_BT: torch.Tensor) -> Iterator[tuple[torch.Tensor, int, int]]:
        """Logits after each fed token, slice by slice; the cache is as before afterwards."""
        engine, rows, length = self.engine, fed_BT.shape[0], fed_BT.shape[1]
        step = engine.slice_tokens(rows)
        if not engine.chunkable:
            with self._running():
                source = engine.read_chunk(torch.cat([self.ids_BT[:, :-1], fed_BT], dim=1), None)
                for first in range(0, length, step):
                    last = min(first + step, length)
                    yield source.logits(first + self.length - 1, last + self.length - 1), first, last
            return
        cache = self._cache if croppable(self._cache) else copied(self._cache)
        with self._running():
            for begin in range(0, length, engine.chunk):
                end = min(begin + engine.chunk, length)
                source = engine.read_chunk(fed_BT[:, begin:end], cache)
                for first in range(begin, end, step):
                    last = min(first + step, end)
                    yield source.logits(first - begin, last - begin), first, last
        if cache is self._cache:
            cache.crop(-length)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        # By default the length that the text is to grow to, so that one rule turns all of it.
        length = self.engine.rope_length_for(self.rope_length or max(self.capacity, self.length))
        with self.engine.guard(), fixed_length(self.engine.model, length):
            yield
