"""Documents as token segments of one exact length: what every loss of a run is measured on.

All lengths of a table, all controls and both models of a comparison read the same segments, so every
difference between two numbers is a difference between two readings of the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.corpus import Document
from ropewalk.text.encoder import TokenizerEncoder
from ropewalk.units import format_length

TokenArray = NDArray[np.int64]
JOINS = ("auto", "yes", "no")


@dataclass(frozen=True)
class Segment:
    """`length` tokens of one document, the opening (BOS) of the tokenizer included."""

    document: str
    index: int
    ids: TokenArray


@dataclass(frozen=True)
class Segments:
    """The text of a run. `opening` is how many tokens at the start of each segment are the tokenizer's own.

    `tokens_available` is what the whole text comes to, counted where all of it was encoded and otherwise estimated from
    the part that was; `segments_available` how many segments that would give.
    """

    items: tuple[Segment, ...]
    length: int
    opening: tuple[int, ...]
    joined: bool
    remarks: tuple[str, ...]
    tokens_available: int | None = None
    segments_available: int | None = None

    @property
    def documents(self) -> list[str]:
        """Names of the documents that are used, once each, in order."""
        return list(dict.fromkeys(item.document for item in self.items))

    @property
    def owners(self) -> list[int]:
        """For each segment the number of its document: the unit over which intervals are taken."""
        names = self.documents
        return [names.index(item.document) for item in self.items]

    @property
    def sha256(self) -> str:
        """Of all token ids in order: two runs with the same value measured the same text."""
        digest = hashlib.sha256()
        for item in self.items:
            # One byte order, so that every machine finds the same value.
            digest.update(item.ids.astype("<i8").tobytes())
        return digest.hexdigest()


def cut(
    documents: Sequence[Document], tokenizer: Any, length: int, *, limit: int = 8, join: str = "auto"
) -> Segments:
    """Consecutive segments of `length` tokens, at most `limit`, dealt out document by document.

    The opening that the tokenizer puts before a text (BOS) stands at the start of every segment and counts.
    Documents shorter than a segment are left out and counted in the remarks, because a table whose lengths
    were measured on different documents compares nothing. With `join="yes"` all documents are read as one
    text; `"auto"` does that only where no single document is long enough.
    """
    if join not in JOINS:
        raise UsageError(f"join={join!r} is unknown", hint=f"use one of {', '.join(JOINS)}")
    if limit < 1:
        raise UsageError(f"max_segments={limit} measures nothing", hint="use 1 or more")
    opening = TokenizerEncoder(tokenizer).opening
    room = length - len(opening)
    # The first token has nothing before it to be predicted from, so one alone would score nothing.
    if room < 2:
        raise UsageError(f"length {length} leaves no text to score", hint="use a longer length")
    encoded = [] if join == "yes" else _encode_until(documents, tokenizer, room, limit)
    joined = join == "yes" or (join == "auto" and not any(len(ids) >= room for _, ids in encoded))
    used = len(encoded)
    if joined:
        joint, used = _joined(documents, tokenizer, room * limit)
        encoded = [joint]
    items = _deal(encoded, opening, room, limit)
    if not items:
        raise _too_short(encoded, length, room, joined)
    remarks = tuple(_remarks(encoded, room, joined=joined, asked=join == "yes"))
    tokens, pieces = _available(documents, encoded, used, room, joined)
    return Segments(tuple(items), length, opening, joined, remarks, tokens, pieces)


def _available(
    documents: Sequence[Document],
    encoded: Sequence[tuple[str, TokenArray]],
    used: int,
    room: int,
    joined: bool,
) -> tuple[int, int]:
    """(tokens, segments) of the whole text, at the tokens per character of the `used` documents that were encoded."""
    read = sum(len(ids) for _, ids in encoded)
    rate = read / max(1, sum(len(document.text) for document in documents[:used]))
    rest = [len(document.text) * rate for document in documents[used:]]
    total = read + round(sum(rest))
    if joined:
        return total, total // room
    return total, sum(len(ids) // room for _, ids in encoded) + sum(int(size) // room for size in rest)


def _encode(tokenizer: Any, text: str) -> TokenArray:
    # A tokenizer would warn that the text is longer than the model's window; here it always is.
    return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)


def _encode_until(
    documents: Sequence[Document], tokenizer: Any, room: int, limit: int
) -> list[tuple[str, TokenArray]]:
    """Encode documents until `limit` of them can give a segment: the rest would not be used."""
    encoded: list[tuple[str, TokenArray]] = []
    enough = 0
    for document in documents:
        ids = _encode(tokenizer, document.text)
        encoded.append((document.name, ids))
        enough += len(ids) >= room
        if enough >= limit:
            break
    return encoded


def _joined(documents: Sequence[Document], tokenizer: Any, wanted: int) -> tuple[tuple[str, TokenArray], int]:
    """As many documents end to end as give `wanted` tokens, under one name, and how many those are."""
    parts: list[TokenArray] = []
    total = 0
    for document in documents:
        # A blank line between them, as between paragraphs, however a file ends.
        parts.append(_encode(tokenizer, document.text.rstrip("\n") + "\n\n"))
        total += len(parts[-1])
        if total >= wanted:
            break
    name = documents[0].name if len(parts) == 1 else f"{len(parts)} documents joined"
    return (name, np.concatenate(parts)), len(parts)


def _deal(
    encoded: Sequence[tuple[str, TokenArray]], opening: tuple[int, ...], room: int, limit: int
) -> list[Segment]:
    """One segment from each document in turn: intervals over documents want many documents."""
    head = np.asarray(opening, dtype=np.int64)
    items: list[Segment] = []
    most = max((len(ids) // room for _, ids in encoded), default=0)
    for turn in range(most):
        for name, ids in encoded:
            piece = ids[turn * room : (turn + 1) * room]
            if len(piece) == room and len(items) < limit:
                items.append(Segment(name, turn, np.concatenate([head, piece])))
    # Dealt by turns, but told document by document: neighbours in a table belong together.
    order = {name: number for number, (name, _) in enumerate(encoded)}
    return sorted(items, key=lambda item: (order[item.document], item.index))


def _remarks(encoded: Sequence[tuple[str, TokenArray]], room: int, *, joined: bool, asked: bool) -> list[str]:
    remarks = []
    short = [name for name, ids in encoded if len(ids) < room]
    if short:
        shown = ", ".join(short[:3]) + (", ..." if len(short) > 3 else "")
        remarks.append(
            f"{len(short)} of {len(encoded)} documents are shorter than a segment and left out: {shown}"
        )
    if joined:
        why = "as asked" if asked else "since no single document is long enough"
        remarks.append(f"the documents were joined into one text, {why}")
    return remarks


def _too_short(
    encoded: Sequence[tuple[str, TokenArray]], length: int, room: int, joined: bool
) -> RopewalkError:
    name, ids = max(encoded, key=lambda pair: len(pair[1]))
    missing = room - len(ids)
    what = "the whole text" if joined else f"the longest document ({name})"
    return RopewalkError(
        f"{what} has {len(ids)} tokens, length {format_length(length)} needs {room}: {missing} are missing",
        hint="give more text with --text, or ask for a shorter length"
        + ("" if joined else ", or pass --join yes"),
    )
