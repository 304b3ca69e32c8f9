"""Documents to rows of any length: many open at a time, end to end, or whole ones side by side.

A stream keeps no random state: each choice is made from (seed, what, number), so its position is a few counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import UsageError
from ropewalk.training.data.cache import Ids, TokenCache, TokenStore, digest_of

# How many pieces wait to be fitted into rows: enough that the gap at a row's end is small, few enough to be re-read.
WAITING = 256
# So many characters are made into tokens and kept at a time: what a kill costs.
AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Sample:
    """One row of a batch: token ids, loss weight and document number of each, and the documents' names."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Documents:
    """Texts by number, made into tokens when they are first asked for: a run starts at once, however much text it has.

    Each text begins with the token that the tokenizer itself puts first, where it does, and ends with the end-of-text
    token, where there is one. A `cache` keeps what was made, for every run and process that reads the same text.
    """

    def __init__(
        self, documents: Sequence[tuple[str, str]], tokenizer: Any, cache: TokenCache | None = None
    ) -> None:
        self.names = [name for name, _ in documents]
        self._texts = [text for _, text in documents]
        self._tokenizer = tokenizer
        self._ids: dict[int, Ids] = {}
        first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        # A tokenizer may have such a token and not put it: what it makes of no text tells.
        starts = first is not None and tokenizer("")["input_ids"][:1] == [first]
        self._begin = [int(first)] if starts else []
        self._end = [] if last is None else [int(last)]
        self._store = None if cache is None else cache.store("text", str(self._begin), str(self._end))
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def characters(self) -> list[int]:
        """Characters of every document."""
        return [len(text) for text in self._texts]

    def ids(self, number: int) -> Ids:
        """The tokens of one document."""
        if number not in self._ids:
            kept = None if self._store is None else self._store.get(self._digest(number))
            self._ids[number] = self._made([number])[0] if kept is None else kept
        return self._ids[number]

    def weights(self, number: int) -> NDArray[np.float32] | None:
        """The loss weight of each token of a document; None where all count alike."""
        return None

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every document; needs all of them made."""
        if self._store is not None:
            self._make_all(self._store)
        return np.array([self._length(number) for number in range(len(self))], dtype=np.int64)

    @property
    def known_lengths(self) -> NDArray[np.int64] | None:
        """Tokens of every document where all of them are made already; None where one is missing."""
        # A cached_property that was asked keeps its value there.
        if "lengths" in self.__dict__ or not self._missing(range(len(self))):
            return self.lengths
        return None

    def _length(self, number: int) -> int:
        if number in self._ids or self._store is None:
            return len(self.ids(number))
        kept = self._store.count(self._digest(number))
        return len(self.ids(number)) if kept is None else kept

    def _missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of which no tokens are known."""
        store = self._store
        return [
            number
            for number in numbers
            if number not in self._ids and (store is None or store.count(self._digest(number)) is None)
        ]

    def _make_all(self, store: TokenStore) -> None:
        """Make and keep what is missing, some documents at a time; of several processes one does."""
        missing = self._missing(range(len(self)))
        if not missing:
            return
        with store.alone():
            for numbers in _batches(missing, self._texts):
                # Asked again: whoever waited for another process finds what it has made.
                left = self._missing(numbers)
                if left:
                    self._made(left)

    def _made(self, numbers: Sequence[int]) -> list[Ids]:
        """The tokens of texts, made now and kept where there is a store."""
        texts = [self._texts[number] for number in numbers]
        # One text alone goes as it is: tokenizers outside the library need not know lists.
        given = texts if len(texts) > 1 else texts[0]
        found = self._tokenizer(given, add_special_tokens=False, verbose=False)["input_ids"]
        found = found if len(texts) > 1 else [found]
        made = [np.asarray([*self._begin, *ids, *self._end], dtype=np.int32) for ids in found]
        if self._store is None:
            return made
        self._store.put([(self._digest(number), ids) for number, ids in zip(numbers, made, strict=True)])
        if self._store.trouble:
            # What could not be kept on disk stays in memory: nothing is made twice.
            self._ids |= dict(zip(numbers, made, strict=True))
        return made

    def _digest(self, number: int) -> bytes:
        if number not in self._digests:
            self._digests[number] = digest_of(self._texts[number])
        return self._digests[number]


def _batches(numbers: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    """Documents in turn, `AT_ONCE` characters together."""
    batch: list[int] = []
    size = 0
    for number in numbers:
        batch.append(number)
        size += len(texts[number])
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Row:
    """A row being filled with pieces of documents, up to `count` tokens."""

    def __init__(self, documents: Documents, count: int, pad: int = 0) -> None:
        self.documents, self.filled = documents, 0
        self.ids = np.full(count, pad, dtype=np.int64)
        self.weights = np.zeros(count, dtype=np.float32)
        self.numbers = np.zeros(count, dtype=np.int32)
        self.names: list[str] = []

    @property
    def room(self) -> int:
        """Tokens that are still missing."""
        return len(self.ids) - self.filled

    def add(self, document: int, offset: int) -> int:
        """As much of a document from `offset` on as fits; how many tokens that were."""
        piece = self.documents.ids(document)[offset : offset + self.room]
        place = slice(self.filled, self.filled + len(piece))
        weights = self.documents.weights(document)
        self.ids[place] = piece
        self.weights[place] = 1.0 if weights is None else weights[offset : offset + len(piece)]
        self.numbers[place] = len(self.names)
        self.names.append(self.documents.names[document])
        self.filled += len(piece)
        return len(piece)

    def sample(self) -> Sample:
        """The finished row; what was not filled is padding without loss, a document of its own."""
        self.numbers[self.filled :] = len(self.names)
        return Sample(self.ids, self.weights, self.numbers, tuple(self.names))


@dataclass
class DocumentStream:
    """An endless stream of rows over documents, in a new order every epoch.

    `width` documents are open at a time, and every row goes on in one of them, drawn at random: the rows of a step then
    come from as many places of the text, instead of one after the other from the same. Where a document ends, the
    row goes on in the next; every document is read once an epoch. A width of 1 reads end to end.
    """

    documents: Documents
    members: NDArray[np.int64]
    key: tuple[int, ...]
    width: int = 1
    epoch: int = 0
    opened: int = 0
    taken: int = 0
    lanes: list[list[int]] = field(default_factory=list)
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, repr=False)

    def order(self) -> NDArray[np.int64]:
        """The documents of this epoch in their order."""
        if self._order is None or self._order[0] != self.epoch:
            rng = np.random.default_rng([*self.key, self.epoch])
            self._order = (self.epoch, rng.permutation(self.members))
        return self._order[1]

    def take(self, count: int) -> Sample:
        """The next `count` tokens, across documents and epochs."""
        rng = np.random.default_rng([*self.key, self.taken, 0x1A9E])
        # An epoch with any text fills at least one place: a row that needs more epochs than places never fills.
        row, last_epoch = Row(self.documents, count), self.epoch + count
        lane = self._lane(rng)
        while row.room:
            if self.epoch > last_epoch:
                raise UsageError(
                    "the documents of a source have no tokens", hint="check its text and the tokenizer"
                )
            document, offset = self.lanes[lane]
            offset += row.add(document, offset)
            self.lanes[lane] = [document, offset]
            if offset == len(self.documents.ids(document)):
                del self.lanes[lane]
                if row.room and self.opened < len(self.members):
                    # The next document opens in the place of the one that ended.
                    self.lanes.insert(lane, [int(self.order()[self.opened]), 0])
                    self.opened += 1
                elif row.room:
                    lane = self._lane(rng)
        self.taken += 1
        return row.sample()

    def _lane(self, rng: np.random.Generator) -> int:
        """Open documents up to the width, in the next epoch where this one is at its end, and draw one of them."""
        if not self.lanes and self.opened == len(self.members):
            self.epoch, self.opened = self.epoch + 1, 0
        fresh = self.order()[self.opened : self.opened + self.width - len(self.lanes)]
        self.lanes += [[int(document), 0] for document in fresh]
        self.opened += len(fresh)
        return int(rng.integers(len(self.lanes)))

    def state(self) -> dict[str, Any]:
        """The position."""
        lanes = [list(lane) for lane in self.lanes]
        return {"epoch": self.epoch, "opened": self.opened, "taken": self.taken, "lanes": lanes}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a position that `state` gave."""
        self.epoch, self.opened, self.taken = (int(state[name]) for name in ("epoch", "opened", "taken"))
        self.lanes = [[int(value) for value in lane] for lane in state["lanes"]]


@dataclass
class FittedStream:
    """Rows of whole documents: no document is cut but those longer than a row, and rows end in padding.

    Of the documents that wait, the first begins a row; then the largest that still fits follows, until none does. The
    rest of one that is longer than a row waits at a random place, so that the rows of a step come from many documents.
    With `whole` the oldest that fits begins it: a longer one waits for a longer row, and is cut only where all are.
    """

    documents: Documents
    members: NDArray[np.int64]
    key: tuple[int, ...]
    pad: int
    whole: bool = False
    width: int = WAITING
    epoch: int = 0
    opened: int = 0
    taken: int = 0
    waiting: list[list[int]] = field(default_factory=list)

    def take(self, count: int) -> Sample:
        """The next row of `count` tokens."""
        self._refill()
        row = Row(self.documents, count, self.pad)
        chosen: int | None = self._oldest(count) if self.whole else 0
        while chosen is not None:
            document, offset = self.waiting.pop(chosen)
            offset += row.add(document, offset)
            if offset < len(self.documents.ids(document)):
                rng = np.random.default_rng([*self.key, self.taken, 0x1A9E])
                self.waiting.insert(int(rng.integers(len(self.waiting) + 1)), [document, offset])
                break
            sizes = [len(self.documents.ids(document)) - offset for document, offset in self.waiting]
            # Of equal sizes the one that has waited longest.
            fitting = [(size, -place) for place, size in enumerate(sizes) if size <= row.room]
            chosen = -max(fitting)[1] if fitting else None
        self.taken += 1
        return row.sample()

    def _oldest(self, room: int) -> int:
        """The place of the first waiting piece of at most `room` tokens; 0 where none is."""
        sizes = (len(self.documents.ids(document)) - offset for document, offset in self.waiting)
        return next((place for place, size in enumerate(sizes) if size <= room), 0)

    def _refill(self) -> None:
        begun, full = self.epoch, min(self.width, 2 * len(self.members))
        order = self._order()
        while len(self.waiting) < full:
            if self.opened == len(self.members):
                self.epoch, self.opened = self.epoch + 1, 0
                order = self._order()
                # Whole epochs without a single token: there are none.
                if self.epoch > begun + 2 and not self.waiting:
                    raise UsageError(
                        "the documents of a source have no tokens", hint="check its text and the tokenizer"
                    )
            document = int(order[self.opened])
            self.opened += 1
            if len(self.documents.ids(document)):
                self.waiting.append([document, 0])

    def _order(self) -> NDArray[np.int64]:
        return np.random.default_rng([*self.key, self.epoch]).permutation(self.members)

    def state(self) -> dict[str, Any]:
        """The position."""
        return {
            "epoch": self.epoch,
            "opened": self.opened,
            "taken": self.taken,
            "waiting": [list(item) for item in self.waiting],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a position that `state` gave."""
        self.epoch, self.opened, self.taken = (int(state[name]) for name in ("epoch", "opened", "taken"))
        self.waiting = [[int(value) for value in item] for item in state["waiting"]]
