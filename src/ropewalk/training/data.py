"""Documents to samples of any length, mixed by share, with a position that can be written down and taken up again.

Nothing here keeps a random state: every random choice is made from (seed, what, number), so the position is a few
counters. A sample names the documents in it, so that a bad batch can be traced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError, one_line
from ropewalk.training.recipe import DataPart, SourcePart
from ropewalk.training.sources import documents_of, find_generator, generator_hash


@dataclass(frozen=True)
class Sample:
    """One row of a batch: token ids, loss weight and document number of each, and the documents' names."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


def share_out(shares: Sequence[float], served: Sequence[int]) -> int:
    """The index that is furthest behind its share of what was served; the first of equals."""
    total = sum(served)
    weight = sum(shares)
    behind = [share / weight * (total + 1) - done for share, done in zip(shares, served, strict=True)]
    return int(np.argmax(behind))


@dataclass
class DocumentStream:
    """An endless stream of tokens over documents, in a new order every epoch.

    Its whole state is (epoch, rank in the order, token inside the document).
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    names: Sequence[str]
    members: NDArray[np.int64]
    key: tuple[int, ...]
    epoch: int = 0
    rank: int = 0
    offset: int = 0
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, repr=False)

    def order(self) -> NDArray[np.int64]:
        """The documents of this epoch in their order."""
        if self._order is None or self._order[0] != self.epoch:
            rng = np.random.default_rng([*self.key, self.epoch])
            self._order = (self.epoch, rng.permutation(self.members))
        return self._order[1]

    def take(self, count: int) -> Sample:
        """The next `count` tokens, across documents and epochs."""
        ids = np.empty(count, dtype=np.int64)
        numbers = np.empty(count, dtype=np.int32)
        names: list[str] = []
        filled = 0
        while filled < count:
            document = int(self.order()[self.rank])
            start = int(self.offsets[document]) + self.offset
            end = min(int(self.offsets[document + 1]), start + count - filled)
            size = end - start
            ids[filled : filled + size] = self.tokens[start:end]
            numbers[filled : filled + size] = len(names)
            names.append(self.names[document])
            filled += size
            self.offset += size
            if end == self.offsets[document + 1]:
                self.offset = 0
                self.rank += 1
                if self.rank == len(self.members):
                    self.rank = 0
                    self.epoch += 1
        return Sample(ids, np.ones(count, dtype=np.float32), numbers, tuple(names))

    def state(self) -> list[int]:
        """The position."""
        return [self.epoch, self.rank, self.offset]

    def restore(self, state: Sequence[int]) -> None:
        """Take up a position that `state` gave."""
        self.epoch, self.rank, self.offset = (int(value) for value in state)


class TextSource:
    """A source of documents; long ones, where the recipe asks for it, fill a share of their own."""

    def __init__(self, part: SourcePart, data: DataPart, tokenizer: Any, key: tuple[int, ...]) -> None:
        documents = documents_of(part)
        self.name = part.name
        self.hash = _hash_of(f"{name}\0{text}" for name, text in documents)
        tokens, offsets = tokenize(tokenizer, [text for _, text in documents])
        self.num_tokens, self.num_documents = len(tokens), len(documents)
        if not self.num_tokens:
            raise UsageError(f"source {part.name!r} has no tokens", hint="check its text and the tokenizer")
        names = [f"{part.name}:{name}" for name, _ in documents]
        lengths = np.diff(offsets)
        groups = [np.flatnonzero(lengths > 0)]
        self.shares = [1.0]
        rule = data.long_documents
        if rule is not None:
            groups = [
                np.flatnonzero(lengths >= rule.min_length),
                np.flatnonzero((lengths > 0) & (lengths < rule.min_length)),
            ]
            self.shares = [rule.share, 1 - rule.share]
        kept = [
            (group, share)
            for group, share in zip(groups, self.shares, strict=True)
            if len(group) and share > 0
        ]
        if not kept:
            assert rule is not None
            raise UsageError(
                f"source {part.name!r} has no document that long_documents (min_length={rule.min_length}, "
                f"share={rule.share:g}) leaves to train on",
                hint="lower min_length, or share",
            )
        self.shares = [share for _, share in kept]
        self.streams = [
            DocumentStream(tokens, offsets, names, group, (*key, number))
            for number, (group, _) in enumerate(kept)
        ]
        self.served = [0] * len(self.streams)

    def take(self, count: int) -> Sample:
        """The next sample of `count` tokens."""
        number = share_out(self.shares, self.served)
        self.served[number] += count
        return self.streams[number].take(count)

    def state(self) -> dict[str, Any]:
        """The position."""
        return {"served": list(self.served), "streams": [stream.state() for stream in self.streams]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a position that `state` gave."""
        self.served = [int(value) for value in state["served"]]
        for stream, position in zip(self.streams, state["streams"], strict=True):
            stream.restore(position)


class GeneratedSource:
    """Samples from a registered generator; sample n always comes from the same random numbers."""

    num_tokens = 0
    num_documents = 0

    def __init__(self, part: SourcePart, tokenizer: Any, key: tuple[int, ...]) -> None:
        assert part.generator is not None
        self.name = part.name
        self.generator = part.generator
        self.function = find_generator(part.generator)
        self.parameters = part.parameters
        self.tokenizer = tokenizer
        self.key = key
        self.number = 0
        self.hash = _hash_of(
            [part.generator, generator_hash(self.function), repr(sorted(part.parameters.items()))]
        )
        self.pad = next((i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None), 0)

    def take(self, count: int) -> Sample:
        """The next sample of `count` tokens; what the generator cannot fill is padding without loss."""
        rng = np.random.default_rng([*self.key, self.number])
        ids = np.full(count, self.pad, dtype=np.int64)
        weights = np.zeros(count, dtype=np.float32)
        numbers = np.zeros(count, dtype=np.int32)
        filled = pieces = 0
        while filled < count:
            piece, piece_weights = self._call(rng, count - filled)
            if not len(piece):
                break
            ids[filled : filled + len(piece)] = piece
            weights[filled : filled + len(piece)] = piece_weights
            numbers[filled : filled + len(piece)] = pieces
            filled += len(piece)
            pieces += 1
        numbers[filled:] = pieces
        name = f"{self.name}:{self.number}"
        self.number += 1
        return Sample(
            ids, weights, numbers, tuple(f"{name}/{piece}" for piece in range(pieces + (filled < count)))
        )

    def _call(self, rng: np.random.Generator, room: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        try:
            result = self.function(rng, self.tokenizer, room, **self.parameters)
        except TypeError as error:
            raise UsageError(
                f"generator {self.generator!r} of source {self.name!r} refuses its parameters ({one_line(error)})",
                hint="correct `parameters` of the source",
            ) from error
        ids, weights = result if isinstance(result, tuple) else (result, None)
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) > room:
            raise UsageError(
                f"generator {self.generator!r} returned {len(ids)} tokens where {room} were asked for",
                hint="a generator returns at most `length` tokens",
            )
        if weights is None:
            return ids, np.ones(len(ids), dtype=np.float32)
        weights = np.asarray(weights, dtype=np.float32)
        if weights.shape != ids.shape:
            raise UsageError(
                f"generator {self.generator!r} returned {len(ids)} tokens and {len(weights)} weights",
                hint="one weight a token",
            )
        return ids, weights

    def state(self) -> dict[str, Any]:
        """The position."""
        return {"number": self.number}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a position that `state` gave."""
        self.number = int(state["number"])


class Mixture:
    """All sources of a recipe, each with its share of the tokens."""

    def __init__(self, data: DataPart, tokenizer: Any, seed: int) -> None:
        self.sources: list[TextSource | GeneratedSource] = []
        for number, part in enumerate(data.sources):
            key = (seed, 1, number)
            if part.kind == "generated":
                self.sources.append(GeneratedSource(part, tokenizer, key))
            else:
                self.sources.append(TextSource(part, data, tokenizer, key))
        self.shares = [part.share for part in data.sources]
        self.served = [0] * len(self.sources)
        self.tokenizer_hash = tokenizer_hash(tokenizer)

    def take(self, count: int) -> Sample:
        """The next sample of `count` tokens from the source that is furthest behind its share."""
        number = share_out(self.shares, self.served)
        self.served[number] += count
        return self.sources[number].take(count)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens until every text source has been seen once at its share; 0 where nothing is text."""
        weight = sum(self.shares)
        needs = [
            source.num_tokens * weight / share
            for source, share in zip(self.sources, self.shares, strict=True)
            if source.num_tokens
        ]
        return round(max(needs)) if needs else 0

    def hashes(self) -> dict[str, str]:
        """What the data is: SHA-256 of each source and of the tokenizer."""
        return {"tokenizer": self.tokenizer_hash} | {
            f"source {item.name}": item.hash for item in self.sources
        }

    def state(self) -> dict[str, Any]:
        """The position in every source."""
        return {"served": list(self.served), "sources": {item.name: item.state() for item in self.sources}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a position that `state` gave."""
        self.served = [int(value) for value in state["served"]]
        for item in self.sources:
            item.restore(state["sources"][item.name])


def tokenize(tokenizer: Any, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All texts as one array of token ids, and their offsets.

    Each text begins with the token that the tokenizer itself puts first, where it does, and ends with the
    end-of-text token, where there is one.
    """
    first = tokenizer.bos_token_id
    begin = [] if first is None or tokenizer("")["input_ids"][:1] != [first] else [int(first)]
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    pieces: list[NDArray[np.int32]] = []
    lengths = [0]
    for start in range(0, len(texts), 64):
        encoded = tokenizer(list(texts[start : start + 64]), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        for ids in encoded:
            piece = np.asarray([*begin, *ids, *end], dtype=np.int32)
            pieces.append(piece)
            lengths.append(len(piece))
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)
    return tokens, np.cumsum(np.asarray(lengths, dtype=np.int64))


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does: its serialised form where there is one, its vocabulary otherwise."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode("utf-8")).hexdigest()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return _hash_of(f"{index} {word}" for word, index in vocabulary)


def _hash_of(pieces: Any) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        content = piece.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
