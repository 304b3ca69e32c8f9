"""One text behind one rung of a ladder: read, continued, and moved to the next rung where it outgrows its own.

Moving is exact: the kept tokens are read again, in chunks, under the new rung, so that logits at every step are those
of a text that had been read under it from the beginning. The cheap way turns the cached keys instead, which is exact in
the first layer only. Axes: B rows (one), T tokens, V words.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ropewalk.attention.cache_kinds import CacheKind
from ropewalk.attention.caches import cache_bytes, new_cache
from ropewalk.attention.chunks import chunks_agree
from ropewalk.attention.interface import split_attention
from ropewalk.attention.split import splittable
from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.generation.cheap import turned
from ropewalk.generation.ladder import Ladder, Rung, in_force
from ropewalk.models.live.heads import decoder_of
from ropewalk.models.live.rotary import alone

CHUNK = 2048


class Session:
    """A text on a model. Use it in a `with` block: leaving gives the model back as it was.

    `tokens` fixes the rung that holds as many; without it the session climbs whenever the text outgrows its rung.
    `forwarded` counts the tokens that went through the model, `switches` the lengths at which the rung changed.
    """

    def __init__(
        self,
        model: Any,
        ladder: Ladder,
        *,
        tokens: int | None = None,
        chunk: int | None = None,
        cheap: bool = False,
        kind: CacheKind | None = None,
    ) -> None:
        self.model, self.ladder, self.chunk, self.cheap = alone(model), ladder, chunk, cheap
        self.kind = kind or CacheKind("full")
        self.ids: list[int] = []
        self.forwarded = 0
        self.switches: list[int] = []
        self.rung: Rung | None = None
        self._fixed = None if tokens is None else ladder.rung_for(tokens)
        self._tokens = tokens
        self._cache: Any = None
        self._stack = contextlib.ExitStack()
        self._words = int(self.model.get_input_embeddings().weight.shape[0])
        self._device = self.model.get_input_embeddings().weight.device
        self._takes = inspect.signature(type(self.model).forward).parameters
        self._chunkable: bool | None = None
        # A model that gives no cache back (RecurrentGemma) is read from the beginning at every step.
        self.reads_whole = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the model back as it was; the text and its counts stay readable."""
        self._stack.close()
        self._cache = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of the filled cache."""
        return 0 if self._cache is None else cache_bytes(self._cache)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Append tokens; the logits after the last of them, float32 (V,)."""
        if not len(ids):
            raise UsageError("there is nothing to read", hint="give one token or more")
        if not 0 <= min(ids) <= max(ids) < self._words:
            raise RopewalkError(
                f"token id {max(ids)} is outside the vocabulary of {self._words}",
                hint="the tokenizer does not belong to this model",
            )
        self.ids += map(int, ids)
        rung = self._fixed or self.ladder.rung_for(len(self.ids))
        # Rungs are equal by factor and window: what makes them is not compared.
        if rung == self.rung:
            return self._forward(ids)
        if self.rung is None:
            self._enter(rung)
            return self._forward(self.ids)
        self.switches.append(len(self.ids))
        if self.cheap:
            # Around the change of rungs: it looks at the rotation before and after.
            with turned(self.model, self._cache):
                self._enter(rung, keep=True)
            return self._forward(ids)
        self._enter(rung)
        return self._forward(self.ids)

    def fresh_logprobs(self, start: int) -> Tensor:
        """Log-probabilities of the tokens from `start` on in one fresh reading under the present rung, float32.

        What a cheap session's own figures are held against.
        """
        # Beside the session's own cache, which goes on as it was: this reading is a measurement.
        kept, counted = self._cache, self.forwarded
        self._cache = self._new_cache()
        found: list[float] = []

        def score(first: int, logits_BTV: Tensor) -> None:
            logs = logits_BTV[0].float().log_softmax(-1)
            for row, place in enumerate(range(first, first + logs.shape[0])):
                if start <= place + 1 < len(self.ids):
                    found.append(float(logs[row, self.ids[place + 1]]))

        self._forward(self.ids, each=score)
        self._cache, self.forwarded = kept, counted
        return torch.tensor(found)

    def _enter(self, rung: Rung, *, keep: bool = False) -> None:
        self._stack.close()
        if not keep:
            self._cache = None
        self._stack.enter_context(in_force(self.model, rung))
        self._stack.enter_context(self.kind.applied(self.model))
        self.rung = rung
        if not keep:
            self._cache = self._new_cache()

    def _new_cache(self) -> Any:
        assert self.rung is not None
        if not self.model._supports_default_dynamic_cache():
            # The model makes a cache of its own kind at its first forward.
            return None
        return new_cache(self.model, self._room(self.rung), forkable=False)

    def _room(self, rung: Rung) -> int:
        """Tokens that a cache is made for at first."""
        if self._tokens is not None:
            return self._tokens
        # A window may be far wider than the text becomes; a static cache cannot grow.
        return rung.window if self.kind.is_static else min(rung.window, len(self.ids) + CHUNK)

    @torch.inference_mode()
    def _forward(self, ids: Sequence[int], each: Callable[[int, Tensor], None] | None = None) -> Tensor:
        ids = self.ids if self.reads_whole else ids
        self.forwarded += len(ids)
        row_BT = torch.tensor([list(ids)], dtype=torch.long, device=self._device)
        begin, step = len(self.ids) - len(ids), self._step(row_BT)
        options: dict[str, Any] = {}
        if "logits_to_keep" in self._takes and each is None:
            # Logits of a whole prompt are its length times the vocabulary, and only the last row is read.
            options["logits_to_keep"] = 1
        logits_BTV = None
        try:
            with split_attention(self.model) if self._splits(step, len(ids)) else contextlib.nullcontext():
                for first in range(0, len(ids), step):
                    piece_BT = row_BT[:, first : first + step]
                    if "position_ids" in self._takes:
                        # Some hybrid models count positions wrongly behind a cache when they are left to themselves.
                        places = torch.arange(first, first + piece_BT.shape[1], device=self._device) + begin
                        options["position_ids"] = places[None]
                    output = self.model(
                        input_ids=piece_BT, past_key_values=self._cache, use_cache=True, **options
                    )
                    logits_BTV = output.logits
                    self._cache = getattr(output, "past_key_values", None)
                    self.reads_whole = not hasattr(output, "past_key_values")
                    if each is not None:
                        each(first, logits_BTV)
        except torch.OutOfMemoryError as error:
            raise RopewalkError(
                f"the device ran out of memory ({one_line(error, 120)})",
                hint="use --dtype bfloat16, a shorter prompt, or a smaller --chunk",
            ) from error
        assert logits_BTV is not None
        last_V: Tensor = logits_BTV[0, -1].float()
        if not bool(torch.isfinite(last_V).any()) or bool(torch.isnan(last_V).any()):
            raise RopewalkError(
                f"the model's output at position {len(self.ids) - 1} is not a finite number",
                hint="try --dtype float32 and --attn eager; if it stays, the weights or the scaling are broken",
            )
        return last_V

    def _step(self, row_BT: Tensor) -> int:
        """Tokens of one forward. The model as it was loaded reads a prompt in one, as stock software does."""
        length = row_BT.shape[1]
        assert self.rung is not None
        if self.kind.whole_prompt or self.reads_whole:
            return length
        step = self.chunk or (length if self.rung.is_own else CHUNK)
        if self.kind.piece is not None:
            # What is read together sees itself unrounded: pieces as `eval` reads them.
            return min(step, self.kind.piece, length)
        if step >= length:
            return length
        return step if self._may_chunk() else length

    def _splits(self, step: int, length: int) -> bool:
        return step < length and splittable(self.model, decoder_of(self.model))

    def _may_chunk(self) -> bool:
        if self._chunkable is None:
            ids_BT = (torch.arange(16, device=self._device) % self._words)[None]
            whole_BTV = self.model(input_ids=ids_BT, use_cache=False).logits.float()
            splits = self._splits(1, 16)
            running = split_attention(self.model) if splits else contextlib.nullcontext()
            self._chunkable = chunks_agree(self.model, ids_BT, whole_BTV, running)[0]
        return self._chunkable
