"""Haystacks: filler in whole sentences, inserts at exact depths, and a total of exactly as many tokens as asked."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.encoder import Encoder, Frame, Piece

IdArray = NDArray[np.int32]


class Filler:
    """Sentences in a fixed order, encoded as far as anybody has asked, and shared by every length and depth."""

    def __init__(self, sentences: Iterator[str], encoder: Encoder, *, source: str) -> None:
        self._sentences = sentences
        self._encoder = encoder
        self._source = source
        self._ids = array("i")
        self._ends: list[int] = [0]
        self._texts: list[str] = []

    def _reach(self, tokens: int) -> None:
        """Encode so many tokens; a sample that came out shorter than its length says would be a false figure."""
        while self._ends[-1] < tokens:
            text = next(self._sentences, None)
            if text is None:
                raise RopewalkError(
                    f"{self._source}: {self._ends[-1]} tokens in all, this length needs {tokens}",
                    hint="give more text, or ask for a shorter length",
                )
            self._ids.extend(self._encoder.ids(text))
            self._ends.append(len(self._ids))
            self._texts.append(text)

    def whole_sentences(self, tokens: int) -> int:
        """How many sentences from the start fit into `tokens` whole. The filler must hold at least as many tokens."""
        self._reach(tokens)
        return bisect.bisect_right(self._ends, tokens) - 1

    def sentence_tokens(self, count: int) -> int:
        """Tokens of the first `count` sentences."""
        return self._ends[count]

    def ids(self, start: int, stop: int) -> IdArray:
        """Tokens of sentences `start` to `stop`."""
        return np.array(self._ids[self._ends[start] : self._ends[stop]], dtype=np.int32)

    def cut(self, after: int, tokens: int) -> IdArray:
        """The first `tokens` tokens after the first `after` sentences, in the middle of a sentence if need be."""
        begin = self._ends[after]
        self._reach(begin + tokens)
        return np.array(self._ids[begin : begin + tokens], dtype=np.int32)

    def text(self, start: int, stop: int) -> str:
        """Text of sentences `start` to `stop`."""
        return "".join(self._texts[start:stop])


@dataclass(frozen=True)
class Insert:
    """A piece that is hidden at a depth: 0 before the first sentence of the filler, 1 after the last."""

    piece: Piece
    depth: float


@dataclass(frozen=True)
class Layout:
    """Where everything stands in one prompt. Tokens and text are put together only when they are read."""

    encoder: Encoder
    frame: Frame
    head: Piece
    filler: Filler
    rest: Filler
    count: int
    remainder: int
    slots: tuple[tuple[int, Piece], ...]
    question: Piece
    lead: Piece

    def ids(self) -> IdArray:
        """The prompt's tokens."""
        parts: list[Sequence[int] | IdArray] = [self.frame.before.ids, self.head.ids]
        at = 0
        for slot, insert in self.slots:
            parts += [self.filler.ids(at, slot), insert.ids]
            at = slot
        parts += [self.filler.ids(at, self.count), self._cut()]
        parts += [self.question.ids, self.frame.after.ids, self.lead.ids]
        return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])

    def _cut(self) -> IdArray:
        return self.rest.cut(self.count if self.rest is self.filler else 0, self.remainder)

    def content(self) -> str:
        """The text without the frame and without the first words of the answer: what a chat user would write."""
        parts = [self.head.text]
        at = 0
        for slot, insert in self.slots:
            parts += [self.filler.text(at, slot), insert.text]
            at = slot
        parts += [
            self.filler.text(at, self.count),
            self.encoder.text(self._cut().tolist()),
            self.question.text,
        ]
        return "".join(parts)

    def text(self) -> str:
        """The whole prompt as text, the frame and the first words of the answer included."""
        return self.frame.before.text + self.content() + self.frame.after.text + self.lead.text


def count_sentences(task: str, length: int, fixed: int, filler: Filler, least: int) -> int:
    """Whole sentences of the filler that fit beside `fixed` tokens; fewer than `least` are refused."""
    room = length - fixed
    count = filler.whole_sentences(room) if room > 0 else 0
    if count < least:
        needed = fixed + _tokens_of(filler, least)
        raise UsageError(
            f"task {task!r} does not fit in length {length}: it needs at least {needed} tokens with this tokenizer",
            hint=f"ask for {needed} tokens or more, for fewer depths or needles, or leave the task out",
        )
    return count


@dataclass(frozen=True)
class Parts:
    """The pieces of one question, encoded; `answer_tokens` is the room that the answer takes."""

    head: Piece
    inserts: tuple[Insert, ...]
    question: Piece
    lead: Piece
    answer_tokens: int

    def tokens(self, frame: Frame) -> int:
        """Tokens of everything but the filler."""
        pieces = (frame.before, self.head, self.question, frame.after, self.lead)
        inserted = sum(len(insert.piece) for insert in self.inserts)
        return sum(len(piece) for piece in pieces) + inserted + self.answer_tokens


def lay_out(
    parts: Parts,
    *,
    length: int,
    count: int,
    encoder: Encoder,
    frame: Frame,
    filler: Filler,
    rest: Filler | None,
) -> Layout:
    """Fill up to exactly `length` tokens: prompt, question and answer together.

    An insert at depth x stands before sentence round(x * n) of n = `count` whole sentences. What is left after them is
    the beginning of what follows in the filler (or in `rest`), cut to the token.
    """
    slots = [(round(insert.depth * count), insert.piece) for insert in parts.inserts]
    return Layout(
        encoder=encoder,
        frame=frame,
        head=parts.head,
        filler=filler,
        rest=filler if rest is None else rest,
        count=count,
        remainder=length - parts.tokens(frame) - filler.sentence_tokens(count),
        slots=tuple(sorted(slots, key=lambda slot: slot[0])),
        question=parts.question,
        lead=parts.lead,
    )


def _tokens_of(filler: Filler, sentences: int) -> int:
    tokens = 1
    while filler.whole_sentences(tokens) < sentences:
        tokens *= 2
    return filler.sentence_tokens(sentences)
