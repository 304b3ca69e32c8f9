"""How long a prompt is to a server: by the model's tokenizer, or by what the server counted in prompts sent before."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.served.endpoint import TooLongError
from ropewalk.evaluation.served.server import Server
from ropewalk.evaluation.tasks.base import KINDS, Setting
from ropewalk.evaluation.tasks.registry import choose_template, make_groups
from ropewalk.evaluation.tasks.sample import Sample
from ropewalk.text import words
from ropewalk.text.encoder import ByteEncoder, Encoder, Frame, Piece, TokenizerEncoder

# Room behind the answer: a chat model says a sentence around it.
SPARE_TOKENS = {"completions": 8, "chat": 48}
# Without a tokenizer, lengths are estimates; this share stays free so that a full window is not overrun.
ESTIMATE_MARGIN = 0.02
_SENTENCE_BYTES = 60


@dataclass(frozen=True)
class Asked:
    """A sample with the length it was made for, the tokens a server should count in it, and room for the answer."""

    sample: Sample
    expected_tokens: float
    max_tokens: int

    def text(self, chat: bool) -> str:
        """What is sent."""
        return self.sample.content if chat else self.sample.prompt


class Gauge:
    """Makes samples of a given number of the server's tokens."""

    def __init__(
        self, server: Server, tokenizer: Any | None, shortest: int, *, max_tokens: int | None = None
    ) -> None:
        self.server = server
        self.exact = tokenizer is not None
        self.encoder: Encoder = ByteEncoder() if tokenizer is None else TokenizerEncoder(tokenizer)
        self.max_tokens = max_tokens
        self.counts = True
        self._densities: dict[tuple[str, str, int], float] = {}
        # The server adds BOS or its template itself, so both are measured, not written.
        self.frame = Frame(Piece("", ()), Piece("", ()))
        self.overhead, self.tokens_per_unit = self._measure(shortest)

    def _measure(self, shortest: int) -> tuple[float, float]:
        """Tokens that the server adds to every prompt, and tokens per unit (byte, or token) of plain prose."""
        short = self._count("Hello there.")
        if short is None:
            self.counts = False
            if not self.exact:
                raise UsageError(
                    "the server does not count tokens (no usage.prompt_tokens)",
                    hint="give the model's tokenizer with --tokenizer",
                )
            return float(len(self.encoder.opening)), 1.0
        if self.exact:
            return float(short - len(self.encoder.ids("Hello there."))), 1.0
        # A byte is a token at most, so this text fits wherever the shortest length does.
        rng = random.Random(0)
        text = " ".join(words.sentence(rng) for _ in range(max(3, int(0.8 * shortest) // _SENTENCE_BYTES)))
        longer = self._count(text)
        if longer is None or longer <= short:
            raise UsageError(
                "the server's token counts do not grow with the prompt", hint="give --tokenizer instead"
            )
        slope = (longer - short) / (len(text.encode()) - len(b"Hello there."))
        return max(0.0, short - slope * len(b"Hello there.")), slope

    def _count(self, text: str) -> int | None:
        return self.server.ask(text, 1).prompt_tokens

    def groups(
        self,
        name: str,
        *,
        lengths: Sequence[int],
        depths: Sequence[float],
        samples: int,
        seed: int,
        options: dict[str, Any],
    ) -> list[list[Asked]]:
        """The samples of one task, `length` being the server's tokens with room for the answer."""
        setting = Setting(encoder=self.encoder, frame=self.frame, template="compact", seed=seed, **options)
        # The wording is chosen at the density of prose; only then can the density of the worded task be asked for.
        first = [self._units(min(lengths), self.tokens_per_unit)]
        template = choose_template(KINDS[name], setting, first, depths)
        density = self.tokens_per_unit if self.exact else self._density(name, setting, template, first[0])
        budgets = {self._units(length, density): length for length in lengths}
        made = make_groups(
            name, setting, lengths=sorted(budgets), depths=depths, samples=samples, template=template
        )
        return [[self._asked(sample, budgets, density) for sample in group] for group in made]

    def _units(self, length: int, density: float) -> int:
        spare = self.max_tokens or SPARE_TOKENS[self.server.api]
        margin = 0.0 if self.exact else ESTIMATE_MARGIN * length
        units = int((length - self.overhead - spare - margin) / density)
        if units < 1:
            raise UsageError(
                f"length {length} leaves no room: the server adds {self.overhead:.0f} tokens and the answer takes "
                f"{spare}",
                hint="ask for a longer length",
            )
        return units

    def _density(self, name: str, setting: Setting, template: str, units: int) -> float:
        """Tokens per byte of this task's own text, from one prompt of nine tenths of the shortest length."""
        asked = (name, template, units)
        if asked not in self._densities:
            self._densities[asked] = self._ask_density(name, setting, template, units)
        return self._densities[asked]

    def _ask_density(self, name: str, setting: Setting, template: str, units: int) -> float:
        kind = KINDS[name](dataclasses.replace(setting, template=template), 0)
        text = self._text(kind.samples(max(1, int(0.9 * units)), [0.5])[0])
        try:
            counted = self._count(text)
        except TooLongError:
            # Denser than prose: half of it is short enough for any window that holds the shortest length.
            text = self._text(kind.samples(max(1, int(0.5 * units)), [0.5])[0])
            counted = self._count(text)
        if counted is None or counted <= self.overhead:
            raise UsageError("the server counts tokens only sometimes", hint="give --tokenizer")
        return (counted - self.overhead) / len(text.encode())

    def _text(self, sample: Sample) -> str:
        return sample.content if self.server.chat else sample.prompt

    def _asked(self, sample: Sample, budgets: dict[int, int], density: float) -> Asked:
        sent = sample.length - len(sample.answer_ids)
        if self.server.chat:
            sent -= len(sample.layout.lead)
        # Without a tokenizer an answer may take a token a letter, as numbers do.
        answer = len(sample.answer_ids) if self.exact else len(sample.answer_text)
        room = self.max_tokens or (SPARE_TOKENS[self.server.api] + answer)
        named = dataclasses.replace(sample, length=budgets[sample.length])
        return Asked(named, expected_tokens=self.overhead + density * sent, max_tokens=room)
