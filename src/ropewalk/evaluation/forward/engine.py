"""The engine under every measurement: prefill in chunks, logits only where scored, caches that fork.

Beyond the weights, memory is the key-value cache plus one chunk, whatever the vocabulary and however long the
text. Axes: B rows, T tokens, E hidden width, V words.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ropewalk.attention.caches import KIND, cache_bytes, new_cache
from ropewalk.attention.chunks import chunks_agree
from ropewalk.attention.interface import split_attention
from ropewalk.attention.split import splittable
from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.evaluation.forward.context import Context, Ids
from ropewalk.evaluation.forward.scored import Scored, check_finite, token_loss, token_loss_in_place
from ropewalk.models.live.heads import decoder_of, logits_from, split_works
from ropewalk.models.live.regimes import Regime, find_regime, fixed_length
from ropewalk.models.live.rotary import alone

__all__ = ["Context", "Engine", "Ids", "NoRoomError", "Scored", "free_bytes", "token_loss"]

_CHUNK = {"cpu": 2048, "cuda": 4096}
_TOKENS_IN_FLIGHT = {"cpu": 2048, "cuda": 16384}
# On a CPU just above 32 MiB: the C allocator maps blocks of that size one by one and returns them at once.
_LOGIT_BYTES = {"cpu": 36 << 20, "cuda": 512 << 20}


class NoRoomError(RopewalkError):
    """A handled failure that an enclosing measurement may still avoid with fewer rows."""


class Engine:
    """A loaded causal model, ready to be measured.

    `chunk` is the number of tokens of one forward; by default it follows the device. The model is put in
    evaluation mode; nothing else of it is changed.
    """

    def __init__(self, model: Any, *, chunk: int | None = None) -> None:
        model = alone(model)
        self.model = model.eval()
        self.device = model.get_input_embeddings().weight.device
        # Any other accelerator has launch costs like CUDA's, which small chunks would pay again and again.
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        if chunk is not None and chunk < 1:
            raise UsageError(
                f"chunk={chunk} holds no token", hint="use a chunk of 1 or more, or leave it out"
            )
        self.chunk = chunk or _CHUNK[kind]
        self.tokens_in_flight = max(_TOKENS_IN_FLIGHT[kind], self.chunk)
        self.vocab_size = int(model.get_input_embeddings().weight.shape[0])
        self.logit_tokens = max(1, _LOGIT_BYTES[kind] // (4 * self.vocab_size))
        self.regime: Regime | None = find_regime(model)
        self.decoder = decoder_of(model)
        # Of one row, all layers; a window layer is counted as if it kept everything.
        self._kv_bytes_per_token: float = 0.0
        self.splits = self.decoder is not None and splittable(model, self.decoder)
        # Taken once, so that batches, and with them the last bits of every number, do not follow the machine's mood.
        self.budget_bytes = free_bytes(self.device) // 2
        with torch.inference_mode():
            self._probe()

    def _probe(self) -> None:
        """Learn from a few tokens whether the head can be run alone, whether chunks through the cache give what
        one forward gives (some layers do not), and what a token costs in the cache."""
        ids_BT = (torch.arange(16, device=self.device) % self.vocab_size)[None]
        whole = self.model(input_ids=ids_BT, use_cache=False).logits.float()
        if not split_works(self.model, self.decoder, ids_BT[:, :4]):
            # Such a model makes logits for every position it reads, so it must read less at once.
            self.decoder = None
            self.chunk = min(self.chunk, max(64, self.logit_tokens))
        self.chunkable = self.splits and self._chunks_agree(ids_BT, whole)
        # Attention in two parts may be what disagrees: without it the model gets a second chance.
        if not self.chunkable:
            self.splits = False
            self.chunkable = self._chunks_agree(ids_BT, whole)

    def _chunks_agree(self, ids_BT: torch.Tensor, whole: torch.Tensor) -> bool:
        """Whether two chunks through a cache give the logits of one forward."""
        running = contextlib.ExitStack()
        running.enter_context(self.guard())
        running.enter_context(fixed_length(self.model, self.rope_length_for(ids_BT.shape[1])))
        agree, cache = chunks_agree(self.model, ids_BT, whole, running)
        if cache is not None:
            self._kv_bytes_per_token = cache_bytes(cache) / ids_BT.shape[1]
        return agree

    @property
    def chunk(self) -> int:
        """Tokens of one forward; fewer where the cache in force wants to be asked more often."""
        kind = vars(self.model).get(KIND)
        return self._chunk if kind is None else min(self._chunk, kind.piece or self._chunk)

    @chunk.setter
    def chunk(self, tokens: int) -> None:
        self._chunk = tokens

    def rows_for(self, length: int) -> int:
        """Texts of this length in one batch: bounded by free memory and by what one forward can use."""
        useful = max(1, self.tokens_in_flight // min(length, self.chunk))
        # Twice: a cache that grows, or is copied at a fork, is there with its predecessor for a moment.
        affordable = int(self.budget_bytes / max(1.0, 2 * self._kv_bytes_per_token * length))
        return max(1, min(useful, affordable))

    def tensor(self, ids: Ids) -> torch.Tensor:
        """Token ids as a (B, T) tensor on the model's device, checked against the vocabulary."""
        ids_BT = torch.as_tensor(ids, dtype=torch.long)
        ids_BT = ids_BT[None] if ids_BT.ndim == 1 else ids_BT
        if ids_BT.numel() and not 0 <= int(ids_BT.min()) <= int(ids_BT.max()) < self.vocab_size:
            low, high = int(ids_BT.min()), int(ids_BT.max())
            raise RopewalkError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {self.vocab_size}",
                hint="the tokenizer does not belong to this model",
            )
        return ids_BT.to(self.device)

    @torch.inference_mode()
    def nll(self, ids: Ids, *, start: int = 1, rope_length: int | None = None) -> torch.Tensor:
        """Loss (nats) of tokens `start`..T-1 given everything before each: float32 (B, T - start).

        One pass over the text in chunks. Logits are made only for scored tokens, a slice at a time.
        `rope_length` is the length whose rotation a length-dependent model is to use; by default that of the
        text itself.
        """
        ids_BT = self.tensor(ids)
        length = ids_BT.shape[1]
        if not 1 <= start < length:
            raise UsageError(
                f"start={start} leaves nothing to score in {length} tokens", hint="use 1 <= start < length"
            )
        try:
            return self._nll(ids_BT, start, rope_length)
        except NoRoomError:
            rows = ids_BT.shape[0]
            if rows == 1:
                raise
            # Fewer rows side by side need less; only a single row that does not fit is the user's problem.
            halves = ids_BT[: rows // 2], ids_BT[rows // 2 :]
            return torch.cat([self.nll(half, start=start, rope_length=rope_length) for half in halves])

    def _nll(self, ids_BT: torch.Tensor, start: int, rope_length: int | None) -> torch.Tensor:
        length = ids_BT.shape[1]
        if not self.chunkable and vars(self.model).get(KIND) is not None:
            raise RopewalkError(
                f"{type(self.model).__name__} cannot be read through a cache in pieces, so no kind of cache shows",
                hint="leave out --cache",
            )
        chunk = self.chunk if self.chunkable else length
        # A text of one chunk needs none, and would only have its keys copied.
        cache = new_cache(self.model, length - 1, forkable=False) if length - 1 > chunk else None
        scored_BS = torch.empty(ids_BT.shape[0], length - start, dtype=torch.float32)
        with self.guard(), fixed_length(self.model, self.rope_length_for(rope_length or length)):
            for begin in range(0, length - 1, chunk):
                end = min(begin + chunk, length - 1)
                # The logits at a position score the token behind it.
                keep = max(begin, start - 1)
                source = self.read_chunk(ids_BT[:, begin:end], cache)
                for first in range(keep, end, self.slice_tokens(ids_BT.shape[0])):
                    last = min(first + self.slice_tokens(ids_BT.shape[0]), end)
                    logits_BTV = source.logits(first - begin, last - begin)
                    loss_BT = token_loss_in_place(logits_BTV, ids_BT[:, first + 1 : last + 1])
                    check_finite(loss_BT, first + 1)
                    scored_BS[:, first + 1 - start : last + 1 - start] = loss_BT.cpu()
                    # Before the next slice is made, or there would be two of them at once.
                    del logits_BTV
                del source
                give_back(self.device)
        return scored_BS

    def slice_tokens(self, rows: int) -> int:
        """Positions of each row whose logits are held at once."""
        return max(1, self.logit_tokens // rows)

    def context(
        self, ids: Ids = (), *, capacity: int | None = None, rope_length: int | None = None
    ) -> Context:
        """A text that can be extended, cropped, forked, asked and continued. See `Context`."""
        context = Context(
            self, capacity=capacity or max(1, len(torch.as_tensor(ids).flatten())), rope_length=rope_length
        )
        if len(ids):
            context.extend(ids)
        return context

    def rope_length_for(self, length: int) -> int | None:
        """The length that a length-dependent rotation is fixed at for a text of `length`; None where none depends."""
        return length if self.regime is not None else None

    def read_chunk(self, ids_BT: torch.Tensor, cache: Any | None) -> ChunkRead:
        """Run the decoder over one chunk; its logits are made on demand."""
        options: dict[str, Any] = (
            {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
        )
        if self.decoder is None:
            return ChunkRead(self, ids_BT, logits_BTV=self.model(input_ids=ids_BT, **options).logits)
        hidden_BTE = self.decoder(input_ids=ids_BT, **options).last_hidden_state
        return ChunkRead(self, ids_BT, hidden_BTE=hidden_BTE)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Where the model runs: attention in two parts where that is exact, and a full device as an error of ours."""
        try:
            with split_attention(self.model) if self.splits else contextlib.nullcontext():
                yield
        except torch.OutOfMemoryError as error:
            raise NoRoomError(
                f"the device ran out of memory ({one_line(error, 120)})",
                hint="use a shorter length, --dtype bfloat16, or a smaller --chunk",
            ) from error


@dataclass
class ChunkRead:
    """One chunk's hidden states (or, where a model cannot be split, its logits)."""

    engine: Engine
    ids_BT: torch.Tensor
    hidden_BTE: torch.Tensor | None = None
    logits_BTV: torch.Tensor | None = None

    def logits(self, first: int, last: int) -> torch.Tensor:
        """Logits at chunk positions first..last-1."""
        if self.logits_BTV is not None:
            return self.logits_BTV[:, first:last]
        assert self.hidden_BTE is not None
        engine, ids_BT = self.engine, self.ids_BT[:, first:last]
        return logits_from(engine.model, engine.decoder, ids_BT, self.hidden_BTE[:, first:last])


def give_back(device: torch.device) -> None:
    """Return freed blocks to the system on a CPU: the C allocator hoards them, and the hoard grows with the text."""
    if device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
