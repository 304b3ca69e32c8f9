"""What stands in every row and micro-batch, piece by piece, against rows put together here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_train_streams import Numbers, documents_of

from ropewalk.errors import UsageError
from ropewalk.text import generators
from ropewalk.training.data import streams
from ropewalk.training.data.batches import StepBatch, make_step
from ropewalk.training.data.cache import TokenCache
from ropewalk.training.data.mixture import Mixture, RowRule, mixture_of, padding_of, share_out, tokenizer_hash
from ropewalk.training.data.streams import Documents, DocumentStream, FittedStream, Row, Sample
from ropewalk.training.recipe.data import DataPart
from ropewalk.training.recipe.recipe import Recipe

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(byte_tokenizer: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(byte_tokenizer)


def same(one: Sample, other: Sample) -> bool:
    return (
        one.ids.tolist() == other.ids.tolist()
        and one.weights.tolist() == other.weights.tolist()
        and one.documents.tolist() == other.documents.tolist()
        and one.names == other.names
    )


class Spelling:
    """A token a letter, 1 before a text where it is asked for; it writes down what it is given and how."""

    bos_token_id, eos_token_id = 1, 2

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.options: list[dict[str, Any]] = []

    def __call__(self, texts: Any, **options: Any) -> dict[str, Any]:
        if texts == "":
            return {"input_ids": [1, 2]}
        self.asked.append(texts)
        self.options.append(options)
        made = [[ord(letter) for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": made[0] if isinstance(texts, str) else made}


def test_texts_are_made_alone_or_together_between_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten characters at a time: what goes over them goes with them."""
    monkeypatch.setattr(streams, "AT_ONCE", 10)
    texts = ["aaaa", "bbbbb", "cc", "dddddddddddd", "e" * 9, "f", "g"]
    spelling, store = Spelling(), Store()
    cache: Any = SimpleNamespace(store=lambda *how: store if how == ("text", "[1]", "[2]") else None)
    documents = Documents([(text[0], text) for text in texts], spelling, cache)
    assert documents.ids(1).tolist() == [1, *[98] * 5, 2]
    assert documents.lengths.tolist() == [6, 7, 4, 14, 11, 3, 3]
    assert spelling.asked == ["bbbbb", ["aaaa", "cc", "dddddddddddd"], ["e" * 9, "f"], "g"]
    # A row is longer than any model's window: that is no reason to warn.
    assert all(options == {"add_special_tokens": False, "verbose": False} for options in spelling.options)
    assert documents.characters == [4, 5, 2, 12, 9, 1, 1]
    # Nothing is made twice, and nothing that is kept stays in memory.
    assert (len(spelling.asked), list(documents._ids)) == (4, [1])
    assert documents.ids(0).dtype == np.int32
    store.trouble = "the disk is full"
    again = Documents([("h", "hh"), ("i", "ii")], spelling, cache)
    assert again.lengths.tolist() == [4, 4]
    assert sorted(again._ids) == [0, 1]
    assert again.weights(0) is None


class Store:
    """A store that keeps in memory what it is given."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Any] = {}
        self.trouble = ""

    def get(self, digest: bytes) -> Any:
        return self.kept.get(digest)

    def count(self, digest: bytes) -> int | None:
        return None if digest not in self.kept or self.trouble else len(self.kept[digest])

    def put(self, items: Any) -> None:
        if not self.trouble:
            self.kept |= dict(items)

    def alone(self) -> Any:
        import contextlib

        return contextlib.nullcontext()


def test_lengths_are_known_where_every_document_is() -> None:
    store = Store()
    cache: Any = SimpleNamespace(store=lambda *how: store)
    texts = [("a", "aa"), ("b", "bbb")]
    first = Documents(texts, Spelling(), cache)
    assert first.known_lengths is None
    first.ids(0)
    # One alone is not all of them, whoever has made it.
    assert Documents(texts, Spelling(), cache).known_lengths is None
    first.ids(1)
    reader = Spelling()
    second = Documents(texts, reader, cache)
    assert second.known_lengths is not None
    assert (second.known_lengths.tolist(), reader.asked) == ([4, 5], [])
    without = Documents(texts, Spelling())
    assert without.known_lengths is None
    assert without.lengths.tolist() == [4, 5]
    assert without.known_lengths is without.lengths


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize(("bos", "eos"), [(5, 6), (0, 0), (None, 6), (5, None), (None, None)])
def test_ends_of_a_text_are_those_that_the_tokenizer_has(
    bos: int | None, eos: int | None, adds: bool
) -> None:
    class Ended:
        bos_token_id, eos_token_id = bos, eos

        def __call__(self, text: str, **options: Any) -> Any:
            if not text:
                # Another token first is no beginning of its own.
                return {"input_ids": [bos] if adds and bos is not None else [9, bos]}
            return {"input_ids": [7]}

    wanted = [bos] * (adds and bos is not None) + [7] + [eos] * (eos is not None)
    assert Documents([("a", "x")], Ended()).ids(0).tolist() == wanted


class Weighed(Documents):
    """Every third token of a document carries no loss."""

    def weights(self, number: int) -> Any:
        return (np.arange(len(self.ids(number))) % 3 != 0).astype(np.float32)


def test_a_row_holds_pieces_with_their_weights_and_pads_what_is_left() -> None:
    documents = Weighed([("a", "1 2 3 4 5"), ("b", "6 7 8 9")], Numbers())
    row = Row(documents, 9, 99)
    assert (row.room, row.add(0, 2), row.room, row.add(1, 0), row.room) == (9, 3, 6, 4, 2)
    assert same(row.sample(), Sample(
        np.array([3, 4, 5, 6, 7, 8, 9, 99, 99]), np.array([1, 0, 1, 0, 1, 1, 0, 0, 0], dtype=np.float32),
        np.array([0, 0, 0, 1, 1, 1, 1, 2, 2], dtype=np.int32), ("a", "b"),
    ))  # fmt: skip
    cut = Row(documents, 3)
    assert (cut.add(0, 1), cut.add(1, 0), cut.room) == (3, 0, 0)
    assert cut.sample().ids.tolist() == [2, 3, 4]
    assert Row(documents, 2).sample().ids.tolist() == [0, 0]


def test_the_position_of_a_stream_by_hand() -> None:
    stream = DocumentStream(documents_of([6, 4, 5]), np.arange(3), (4,), 2)
    assert stream.state() == {"epoch": 0, "opened": 0, "taken": 0, "lanes": []}
    order = np.random.default_rng([4, 0]).permutation(3).tolist()
    drawn = int(np.random.default_rng([4, 0, 0x1A9E]).integers(2))
    stream.take(2)
    lanes = [[order[0], 0], [order[1], 0]]
    lanes[drawn][1] = 2
    assert stream.state() == {"epoch": 0, "opened": 2, "taken": 1, "lanes": lanes}
    stream.take(13)
    assert stream.state() == {"epoch": 0, "opened": 3, "taken": 2, "lanes": []}
    stream.take(1)
    assert stream.epoch == 1
    assert stream.order().tolist() == np.random.default_rng([4, 1]).permutation(3).tolist()
    fitted = FittedStream(documents_of([6, 4, 5]), np.arange(3), (4,), 0)
    assert fitted.state() == {"epoch": 0, "opened": 0, "taken": 0, "waiting": []}
    fitted.take(6)
    # Twice as many as there are wait, less what the row took: two epochs are open.
    assert (fitted.epoch, fitted.opened, fitted.taken, len(fitted.waiting)) == (1, 3, 1, 5)


def test_a_source_of_a_few_empty_documents_is_no_empty_source() -> None:
    """A row as long as the epochs that it takes, one token each; an epoch without any is refused."""
    stream = DocumentStream(documents_of([0, 1, 0]), np.arange(3), (0,), 2)
    assert stream.take(7).ids.tolist() == [1] * 7
    fitted = FittedStream(documents_of([0, 1, 0]), np.arange(3), (0,), 0)
    assert fitted.take(4).ids.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("shares", "picks"),
    [
        ([1, 1, 1], [0, 1, 2, 0, 1, 2]),
        ([1, 3], [1, 0, 1, 1, 1, 0]),
        ([0.5, 0.0, 0.5], [0, 2, 0, 2, 0, 2]),
        ([2, 6], [1, 0, 1, 1, 1, 0]),
    ],
)
def test_the_next_is_the_one_that_is_furthest_behind(shares: list[float], picks: list[int]) -> None:
    served, found = [0] * len(shares), []
    for _ in picks:
        # By hand: the largest of share * (served + 1) - own, the first of equals.
        total = sum(served) + 1
        behind = [share / sum(shares) * total - own for share, own in zip(shares, served, strict=True)]
        number = share_out(shares, served)
        assert number == behind.index(max(behind))
        served[number] += 1
        found.append(number)
    assert found == picks


def test_padding_is_the_end_of_a_text_or_what_a_tokenizer_pads_with() -> None:
    def of(eos: int | None, pad: int | None) -> int:
        return padding_of(SimpleNamespace(eos_token_id=eos, pad_token_id=pad))

    assert [of(5, 3), of(0, 3), of(None, 3), of(None, None)] == [5, 0, 3, 0]


def text(folder: Path, name: str = "text", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "text", "paths": [str(folder)]} | more


@pytest.mark.parametrize("rows", ["stream", "fit"])
@pytest.mark.parametrize("long", [None, {"min_length": 700, "share": 0.75}])
def test_rows_of_a_source_are_those_of_its_streams(
    tokenizer: Any, text_folder: Path, rows: Any, long: dict[str, Any] | None
) -> None:
    """Long documents and the others by share, each a stream under (seed, 1, number of source, number of group)."""
    data = DataPart.model_validate(
        {"sources": [text(text_folder, "a"), text(text_folder)], "interleave": 3, "long_documents": long}
    )
    mixed = Mixture(data, tokenizer, 6, RowRule(rows, 600))
    found = sorted(text_folder.glob("*.txt"))
    documents = Documents([(f"text:{path}", path.read_text()) for path in found], tokenizer)
    sizes = [len(path.read_text()) + 1 for path in found]
    groups = [range(len(sizes))]
    if long:
        groups = [
            [n for n, size in enumerate(sizes) if size >= 700],
            [n for n, size in enumerate(sizes) if size < 700],
        ]
    streams: list[Any] = [
        FittedStream(documents, np.array(group), (6, 1, 1, number), tokenizer.eos_token_id)
        if rows == "fit"
        else DocumentStream(documents, np.array(group), (6, 1, 1, number), 3)
        for number, group in enumerate(groups)
    ]
    shares, served = [0.75, 0.25][: len(streams)] if long else [1.0], [0] * len(streams)
    for length in [64, 200, 31, 500] * 4:
        total = sum(served) + 1
        behind = [share * total - own for share, own in zip(shares, served, strict=True)]
        number = behind.index(max(behind))
        served[number] += length
        assert same(mixed.sources[1].take(length), streams[number].take(length))
    assert mixed.sources[1].state() == {"served": served, "streams": [stream.state() for stream in streams]}


def test_a_document_of_just_the_least_length_is_a_long_one(tokenizer: Any, tmp_path: Path) -> None:
    for number, size in enumerate((9, 10, 11)):
        (tmp_path / f"{number}.txt").write_text("x" * (size - 1))

    def members(share: float, least: int = 10) -> list[list[int]]:
        data = {"sources": [text(tmp_path)], "long_documents": {"min_length": least, "share": share}}
        [source] = Mixture(DataPart.model_validate(data), tokenizer, 0).sources
        return [stream.members.tolist() for stream in source.streams]  # type: ignore[union-attr]

    assert members(0.5) == [[1, 2], [0]]
    # A group without members, or without a share, is none.
    assert (members(1.0), members(0.0), members(0.5, 9), members(0.5, 12)) == (
        [[1, 2]],
        [[0]],
        [[0, 1, 2]],
        [[0, 1, 2]],
    )
    with pytest.raises(UsageError, match=r"long_documents \(min_length=12, share=1\) leaves to train on"):
        members(1.0, 12)


def test_conversations_are_fitted_whole_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(CHAT)
    sizes = [(3, 5), (4, 60), (60, 4), (2, 2)]
    talks: list[Any] = [
        {"messages": [{"role": "user", "content": "q" * a}, {"role": "assistant", "content": "r" * b}]}
        for a, b in sizes
    ]
    talks[0]["messages"] += [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * 80}]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    source = {"name": "t", "kind": "chat", "paths": [str(tmp_path / "talks.jsonl")]}
    data = DataPart.model_validate({"sources": [source | {"template": str(tmp_path / "chat.jinja")}]})
    mixed = Mixture(data, tokenizer, 0, RowRule("fit", 60))
    [made] = mixed.sources
    # Two are longer than a row even with their first answer; of one the second answer does not fit.
    assert made.size == {
        "documents": 2,
        "characters": sum(len(json.dumps(talk | {"tools": None})) for talk in talks),
    }
    assert made.remarks == [
        "source 't': of 4 conversations 1 end early, after the last answer that fits into 60 tokens, and 2 are left out"
    ]
    [stream] = made.streams  # type: ignore[union-attr]
    assert isinstance(stream, FittedStream)
    assert (stream.whole, stream.pad, stream.key) == (True, tokenizer.eos_token_id, (0, 1, 0, 0))
    assert Mixture(data, tokenizer, 0, RowRule("fit", 400)).sources[0].remarks == []


def test_hashes_are_of_the_pieces_with_their_lengths(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    mixed = Mixture(DataPart.model_validate({"sources": [text(tmp_path)]}), tokenizer, 0)
    piece = f"{tmp_path / 'a.txt'}\0one".encode()
    assert mixed.hashes() == {
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "source text": hashlib.sha256(len(piece).to_bytes(8, "little") + piece).hexdigest(),
    }
    assert mixed.sources[0].size == {"documents": 1, "characters": 3}
    words = {"b": 1, "a": 0}
    plain = SimpleNamespace(get_vocab=lambda: words)
    inner = b"".join(len(word).to_bytes(8, "little") + word for word in (b"0 a", b"1 b"))
    assert tokenizer_hash(plain) == hashlib.sha256(inner).hexdigest()
    assert TokenCache(None).store("text") is None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda name, function: monkeypatch.setitem(generators.GENERATORS._things, name, function)


def test_a_generated_sample_piece_by_piece(tokenizer: Any, registered: Callable[..., None]) -> None:
    """Pieces until the row is full or none comes; each sample from (seed, 1, source, its number)."""
    asked: list[int] = []

    def pieces(rng: Any, tokenizer: Any, room: int, *, size: int) -> Any:
        asked.append(room)
        ids = rng.integers(0, 50, min(size, room))
        return (ids, [0.5] * len(ids)) if room > 4 else (ids if room > 2 else [])

    registered("pieces", pieces)
    part = {"name": "g", "kind": "generated", "generator": "pieces", "parameters": {"size": 3}}
    mixed = Mixture(DataPart.model_validate({"sources": [part]}), tokenizer, 8)
    assert (mixed.sources[0].state(), mixed.sources[0].remarks) == ({"number": 0}, [])
    for number, (length, rooms) in enumerate(((8, [8, 5, 2]), (6, [6, 3]))):
        asked.clear()
        rng = np.random.default_rng([8, 1, 0, number])
        first, second = rng.integers(0, 50, 3).tolist(), rng.integers(0, 50, 3).tolist()
        left = length - 6
        sample = mixed.take(length)
        assert asked == rooms
        assert sample.ids.tolist() == [*first, *second, *[tokenizer.eos_token_id] * left]
        assert sample.weights.tolist() == [0.5] * 3 + [0.5 if length == 8 else 1.0] * 3 + [0.0] * left
        assert sample.documents.tolist() == [0] * 3 + [1] * 3 + [2] * left
        # What is padded is numbered as one more document, which has no name.
        assert sample.names == (f"g:{number}/0", f"g:{number}/1")
    assert mixed.state() == {"served": [14], "sources": {"g": {"number": 2}}}


def test_shares_of_a_stage_are_counted_from_its_beginning(tokenizer: Any, text_folder: Path) -> None:
    data = DataPart.model_validate({"sources": [text(text_folder, "a", share=3), text(text_folder, "b")]})
    mixed = Mixture(data, tokenizer, 0)
    for _ in range(3):
        mixed.take(10)
    assert mixed.served == [20, 10]
    # The very same shares begin nothing anew.
    mixed.share({"a": 3.0, "b": 1.0})
    assert mixed.served == [20, 10]
    mixed.share({"b": 2.0, "a": 1.0})
    assert (mixed.served, mixed.shares) == ([0, 0], [1.0, 2.0])
    assert [mixed.take(4).names[0][0] for _ in range(3)] == ["b", "a", "b"]
    # An epoch is one at the usual shares, whatever the stage has.
    tokens = sum(len(path.read_text()) + 1 for path in text_folder.glob("*.txt"))
    assert mixed.tokens_per_epoch == tokens * 4


def test_a_recipes_mixture_has_its_rows_and_its_longest(
    byte_tokenizer: Path, tokenizer: Any, text_folder: Path
) -> None:
    recipe = Recipe.model_validate({
        "model": {"path": "hemp"}, "data": {"sources": [text(text_folder)]}, "tokens_per_step": 64, "seed": 4,
        "stages": [{"length": 32, "steps": 1, "mix": {64: 0.5}}], "packing": {"rows": "fit"},
    })  # fmt: skip
    [source] = mixture_of(recipe, tokenizer).sources
    [stream] = source.streams  # type: ignore[union-attr]
    assert isinstance(stream, FittedStream)
    assert (stream.key, stream.whole) == ((4, 1, 0, 0), False)


def numbered(length: int, mark: int, weights: list[float] | None = None) -> Sample:
    given = np.ones(length, np.float32) if weights is None else np.array(weights, dtype=np.float32)
    return Sample(
        np.arange(length) + 100 * mark, given, np.full(length, mark, dtype=np.int32), (f"d{mark}", "shared")
    )


def told(step: StepBatch) -> list[tuple[list[int], list[list[int]], list[list[int]]]]:
    """(row numbers, ids, labels) of every micro-batch."""
    return [(b["rows"].tolist(), b["input_ids"].tolist(), b["labels"].tolist()) for b in step.micro]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_tokens", [1, 8, 12, 100])
def test_rows_are_dealt_in_turn_and_put_together_by_length(world: int, micro_tokens: int) -> None:
    samples = [numbered(8, 0), *(numbered(4, mark) for mark in range(1, 8))]
    for rank in range(world):
        step = make_step(samples, micro_tokens, rank, world)
        wanted: list[Any] = []
        for length, rows in ((8, [0]), (4, list(range(1, 8)))):
            # Each in turn; who has no row left takes one of the first without any label.
            turns = [
                [(row, True) for row in rows[rank::world]],
                [(rows[rank % len(rows)], False)] if len(rows[rank::world]) < -(-len(rows) // world) else [],
            ]
            mine, size = [*turns[0], *turns[1]], max(1, micro_tokens // length)
            for at in range(0, len(mine), size):
                part = mine[at : at + size]
                ids = [samples[row].ids.tolist() for row, _ in part]
                labels = [
                    line if counted else [-100] * length for line, (_, counted) in zip(ids, part, strict=True)
                ]
                wanted.append(([row for row, _ in part], ids, labels))
        assert told(step) == wanted
        assert all("weights" not in batch for batch in step.micro)
        assert step.num_tokens == 8 + 7 * 4
        assert step.names == ("d0", "shared", *(f"d{mark}" for mark in range(1, 8)))


@pytest.mark.parametrize(
    ("weights", "carried"),
    [
        ([1, 1, 0, 1], False),
        ([0, 0, 0, 0], False),
        ([1, 0.5, 0, 1], True),
        ([1, 2, 1, 1], True),
        ([3, 0, 0, 0], True),
    ],
)
def test_weights_travel_only_where_labels_do_not_say_them(weights: list[float], carried: bool) -> None:
    samples = [numbered(4, 1, weights), numbered(4, 2)]
    [batch] = make_step(samples, 100, 0, 1).micro
    assert batch["labels"][0].tolist() == [100 + n if weight else -100 for n, weight in enumerate(weights)]
    assert batch["documents"].tolist() == [[1] * 4, [2] * 4]
    assert ("weights" in batch) is carried
    if carried:
        assert torch.equal(batch["weights"], torch.tensor([weights, [1.0] * 4], dtype=torch.float32))
        # A repeated row has no weight at all.
        [_, other] = (make_step(samples[:1], 100, rank, 2).micro[0] for rank in (0, 1))
        assert "weights" not in other
        assert (other["labels"] == -100).all()
