"""The sources of a recipe, mixed by share, with a position that can be written down and taken up again.

Nothing here keeps a random state: every random choice is made from (seed, what, number), so the position is a few
counters. A sample names the documents in it, so that a bad batch can be traced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError, one_line
from ropewalk.text.generators import find_generator, generator_hash
from ropewalk.training.data.cache import TokenCache
from ropewalk.training.data.chat import ChatDocuments, Template
from ropewalk.training.data.sources import conversations_of, documents_of
from ropewalk.training.data.streams import Documents, DocumentStream, FittedStream, Sample
from ropewalk.training.recipe.data import DataPart, LongDocuments, SourcePart
from ropewalk.training.recipe.recipe import Recipe


@dataclass(frozen=True)
class RowRule:
    """How rows are filled: documents end to end or whole ones side by side, and the longest row of the run."""

    rows: Literal["stream", "fit"] = "stream"
    longest: int = 2**31


def share_out(shares: Sequence[float], served: Sequence[int]) -> int:
    """The index that is furthest behind its share of what was served; the first of equals."""
    total = sum(served)
    weight = sum(shares)
    # One more than was served, so that the very first goes to the largest share.
    behind = [share / weight * (total + 1) - done for share, done in zip(shares, served, strict=True)]
    return int(np.argmax(behind))


def padding_of(tokenizer: Any) -> int:
    """The token that stands where there is no text; it never carries loss."""
    return next((int(i) for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None), 0)


class TextSource:
    """A source of documents; long ones, where the recipe asks for it, fill a share of their own."""

    def __init__(
        self,
        part: SourcePart,
        data: DataPart,
        tokenizer: Any,
        key: tuple[int, ...],
        rule: RowRule,
        cache: TokenCache,
    ) -> None:
        self.name = part.name
        self.cache = cache
        self.remarks: list[str] = []
        self.documents: Documents
        if part.kind == "chat":
            self._read_chat(part, tokenizer, rule.longest)
        else:
            found = documents_of(part)
            self.hash = _hash_of(f"{name}\0{text}" for name, text in found)
            self.size = {"documents": len(found), "characters": sum(len(text) for _, text in found)}
            texts = [(f"{part.name}:{name}", text) for name, text in found]
            self.documents = Documents(texts, tokenizer, self.cache)
        groups = [(np.arange(len(self.documents)), 1.0)]
        if data.long_documents is not None:
            groups = self._by_length(data.long_documents)
        self.shares = [share for _, share in groups]
        self.streams: list[DocumentStream | FittedStream] = [
            FittedStream(
                self.documents, members, (*key, number), padding_of(tokenizer), whole=part.kind == "chat"
            )
            if rule.rows == "fit"
            else DocumentStream(self.documents, members, (*key, number), data.interleave)
            for number, (members, _) in enumerate(groups)
        ]
        self.served = [0] * len(self.streams)

    def _read_chat(self, part: SourcePart, tokenizer: Any, limit: int) -> None:
        found = conversations_of(part)
        template = Template(tokenizer, part.template, part.name)
        self.hash = _hash_of([str(template.text), *(json.dumps(talk, sort_keys=True) for _, talk in found)])
        talks = [(f"{part.name}:{name}", talk) for name, talk in found]
        documents = ChatDocuments(talks, template, limit, self.cache)
        self.size = {
            "documents": len(documents),
            "characters": sum(len(json.dumps(talk)) for _, talk in found),
        }
        self.documents = documents
        if documents.shortened or documents.left_out:
            self.remarks.append(
                f"source {part.name!r}: of {len(found)} conversations {documents.shortened} end early, after the "
                f"last answer that fits into {limit} tokens, and {documents.left_out} are left out"
            )

    def _by_length(self, rule: LongDocuments) -> list[tuple[NDArray[np.int64], float]]:
        long = self.documents.lengths >= rule.min_length
        groups = [(np.flatnonzero(long), rule.share), (np.flatnonzero(~long), 1 - rule.share)]
        kept = [(members, share) for members, share in groups if len(members) and share > 0]
        if not kept:
            raise UsageError(
                f"source {self.name!r} has no document that long_documents (min_length={rule.min_length}, "
                f"share={rule.share:g}) leaves to train on",
                hint="lower min_length, or share",
            )
        return kept

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents; needs all of them made."""
        return int(self.documents.lengths.sum())

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
    size: ClassVar[dict[str, int]] = {"documents": 0, "characters": 0}
    remarks: ClassVar[list[str]] = []

    def __init__(self, part: SourcePart, tokenizer: Any, key: tuple[int, ...]) -> None:
        # hemp registers its own generators when it is imported, as a module given with --import does.
        import ropewalk.training.hemp.sources  # noqa: F401

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
        self.pad = padding_of(tokenizer)

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
        # Padding is numbered as one more document, which has no name.
        numbers[filled:] = pieces
        name = f"{self.name}:{self.number}"
        self.number += 1
        return Sample(ids, weights, numbers, tuple(f"{name}/{piece}" for piece in range(pieces)))

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

    def __init__(self, data: DataPart, tokenizer: Any, seed: int, rule: RowRule = RowRule()) -> None:
        self.sources: list[TextSource | GeneratedSource] = []
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.cache = TokenCache(_what_makes(tokenizer, self.tokenizer_hash))
        for number, part in enumerate(data.sources):
            # The 1 keeps the data's draws apart from the curriculum's, whose key begins with (seed, 2).
            key = (seed, 1, number)
            if part.kind == "generated":
                self.sources.append(GeneratedSource(part, tokenizer, key))
            else:
                self.sources.append(TextSource(part, data, tokenizer, key, rule, self.cache))
        self.usual = [part.share for part in data.sources]
        self.shares = self.usual
        self.served = [0] * len(self.sources)

    def share(self, shares: Mapping[str, float] | None) -> None:
        """Give the sources the shares of a stage (None: their own), counted from here on: nothing is made up for."""
        new = self.usual if shares is None else [shares.get(item.name, 0.0) for item in self.sources]
        if new != self.shares:
            self.shares = new
            self.served = [0] * len(self.sources)

    def take(self, count: int) -> Sample:
        """The next sample of `count` tokens from the source that is furthest behind its share."""
        number = share_out(self.shares, self.served)
        self.served[number] += count
        return self.sources[number].take(count)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens until every text source has been seen once at its share; 0 where nothing is text."""
        weight = sum(self.usual)
        sizes = [source.num_tokens for source in self.sources]
        needs = [size * weight / share for size, share in zip(sizes, self.usual, strict=True) if size]
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
        """Take up a position that `state` gave; the stage's shares are set before."""
        self.served = [int(value) for value in state["served"]]
        for item in self.sources:
            item.restore(state["sources"][item.name])


def mixture_of(recipe: Recipe, tokenizer: Any) -> Mixture:
    """The sources of a recipe, rows filled as it says."""
    rule = RowRule(recipe.packing.rows, recipe.longest)
    return Mixture(recipe.data, tokenizer, recipe.seed, rule)


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does: its serialised form where there is one, its vocabulary otherwise."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode("utf-8")).hexdigest()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return _hash_of(f"{index} {word}" for word, index in vocabulary)


def _what_makes(tokenizer: Any, serialised: str) -> str | None:
    """All that the tokens of a text depend on; None where the tokenizer does not write it down."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return None
    return f"{type(tokenizer).__name__} {serialised} {getattr(tokenizer, 'split_special_tokens', False)}"


def _hash_of(pieces: Any) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        content = piece.encode("utf-8", "surrogatepass")
        # With the length before it no piece runs into the next: other pieces never make the same bytes.
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
