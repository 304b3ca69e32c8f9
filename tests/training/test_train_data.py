"""Documents to samples: shares, order, position, hashes, generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text import generators
from ropewalk.text.generators import find_generator, source
from ropewalk.training.data.batches import make_step
from ropewalk.training.data.mixture import Mixture
from ropewalk.training.data.sources import documents_of
from ropewalk.training.data.streams import Documents, Sample
from ropewalk.training.recipe.data import DataPart, SourcePart


@pytest.fixture(scope="module")
def tokenizer(byte_tokenizer: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(byte_tokenizer)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`registered(name, function)` for the length of one test."""

    def register(name: str, function: Callable[..., Any]) -> None:
        monkeypatch.setitem(generators.GENERATORS._things, name, function)

    return register


def mixture(tokenizer: Any, *parts: dict[str, Any], seed: int = 0, **more: Any) -> Mixture:
    return Mixture(DataPart.model_validate({"sources": list(parts)} | more), tokenizer, seed)


def part(folder: Path, name: str = "text", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "text", "paths": [str(folder)]} | more


def test_an_epoch_holds_every_document_once(tokenizer: Any, text_folder: Path) -> None:
    mixed = mixture(tokenizer, part(text_folder))
    total = mixed.tokens_per_epoch
    first, second = mixed.take(total), mixed.take(total)
    texts = {path.read_text() for path in text_folder.glob("*.txt")}
    for epoch in (first, second):
        assert {text for text in tokenizer.decode(epoch.ids).split("<end>") if text} == texts
        assert len(epoch.names) == len(set(epoch.names)) == 12
    assert first.names != second.names


def test_samples_name_their_documents(tokenizer: Any, text_folder: Path) -> None:
    mixed = mixture(tokenizer, part(text_folder))
    for _ in range(40):
        sample = mixed.take(97)
        for number, name in enumerate(sample.names):
            piece = tokenizer.decode(sample.ids[sample.documents == number]).replace("<end>", "")
            assert piece in Path(name.removeprefix("text:")).read_text()


def test_position_is_taken_up_exactly(tokenizer: Any, text_folder: Path) -> None:
    more = {"long_documents": {"min_length": 400, "share": 0.7}}
    parts = (part(text_folder, share=2), part(text_folder, "other", share=1))
    mixed = mixture(tokenizer, *parts, **more)
    lengths = [64, 200, 31, 500, 64, 64, 3000, 9] * 3
    for number, length in enumerate(lengths):
        fresh = mixture(tokenizer, *parts, **more)
        fresh.restore(mixed.state())
        sample = mixed.take(length)
        assert np.array_equal(fresh.take(length).ids, sample.ids), number


def test_shares_are_shares_of_tokens(tokenizer: Any, text_folder: Path) -> None:
    mixed = mixture(tokenizer, part(text_folder, "a", share=3), part(text_folder, "b", share=1))
    for length in [64, 512, 128] * 60:
        mixed.take(length)
    assert mixed.served[0] / sum(mixed.served) == pytest.approx(0.75, abs=0.01)


def test_long_documents_get_their_share(tokenizer: Any, text_folder: Path) -> None:
    long = {path for path in text_folder.glob("*.txt") if len(path.read_text()) + 1 >= 700}
    assert 0 < len(long) < 6
    mixed = mixture(tokenizer, part(text_folder), long_documents={"min_length": 700, "share": 0.8})
    counts = {True: 0, False: 0}
    for _ in range(200):
        sample = mixed.take(128)
        for number, name in enumerate(sample.names):
            counts[Path(name.removeprefix("text:")) in long] += int((sample.documents == number).sum())
    assert counts[True] / sum(counts.values()) == pytest.approx(0.8, abs=0.02)


def test_a_rule_that_leaves_nothing_is_refused(tokenizer: Any, text_folder: Path) -> None:
    with pytest.raises(UsageError, match="leaves to train on"):
        mixture(tokenizer, part(text_folder), long_documents={"min_length": 100000, "share": 1.0})


def test_hashes_follow_the_text_and_the_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text")
    before = mixture(tokenizer, part(tmp_path)).hashes()
    assert before == mixture(tokenizer, part(tmp_path), seed=5).hashes()
    (tmp_path / "a.txt").write_text("one texd")
    after = mixture(tokenizer, part(tmp_path)).hashes()
    assert before["tokenizer"] == after["tokenizer"]
    assert before["source text"] != after["source text"]


def test_json_lines(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "abc"}\n\n{"body": "defg"}\n')
    given = {"name": "j", "kind": "jsonl", "paths": [str(path)], "field": "body"}
    assert mixture(tokenizer, given).tokens_per_epoch == 9
    with pytest.raises(UsageError, match=r"line 1.*'text'"):
        mixture(tokenizer, given | {"field": "text"})


@pytest.mark.parametrize("name", ["absent.txt", "absent/", "*.none"])
def test_missing_text_is_named(tokenizer: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"'t'.*(no file|absent|none)"):
        mixture(tokenizer, part(tmp_path / name, "t"))


def test_generators_are_seeded_by_sample(tokenizer: Any, registered: Callable[..., None]) -> None:
    registered("digits", lambda rng, tokenizer, length, top=9: rng.integers(0, top, min(10, length)).tolist())
    given = {"name": "g", "kind": "generated", "generator": "digits", "parameters": {"top": 5}}
    first, second = mixture(tokenizer, given), mixture(tokenizer, given)
    samples = [first.take(25) for _ in range(3)]
    assert not np.array_equal(samples[0].ids, samples[1].ids)
    assert all(sample.ids.max() < 5 for sample in samples)
    assert samples[0].documents.tolist() == [0] * 10 + [1] * 10 + [2] * 5
    second.restore({"served": [50], "sources": {"g": {"number": 2}}})
    assert np.array_equal(second.take(25).ids, samples[2].ids)


def test_what_a_generator_leaves_is_padding_without_loss(
    tokenizer: Any, registered: Callable[..., None]
) -> None:
    registered("short", lambda rng, tokenizer, length: ([1, 2, 3], [0.0, 0.5, 1.0]) if length > 6 else [])
    sample = mixture(tokenizer, {"name": "g", "kind": "generated", "generator": "short"}).take(8)
    assert sample.ids.tolist() == [1, 2, 3] + [tokenizer.eos_token_id] * 5
    assert sample.weights.tolist() == [0, 0.5, 1, 0, 0, 0, 0, 0]
    # Padding is a document of its own for attention, and none of those that are named and counted.
    assert sample.documents.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert sample.names == ("g:0/0",)


def test_the_preview_counts_no_padding_as_a_document(
    tiny: Callable[..., dict[str, Any]], registered: Callable[..., None]
) -> None:
    from ropewalk.training.preview import preview

    registered("short", lambda rng, tokenizer, length: [1, 2, 3] if length > 6 else [])
    source = {"name": "g", "kind": "generated", "generator": "short"}
    [row] = preview(tiny(data={"sources": [source]}, stages=[{"length": 8, "steps": 1}]), 1)
    assert (row.documents, row.scored, row.padding) == (("g:0/0",), 3, 5)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda rng, tokenizer, length: [1] * (length + 1), "at most"),
        (lambda rng, tokenizer, length: ([1, 2], [1.0]), "one weight a token"),
        (lambda rng, tokenizer, length, *, needed: [1], "parameters"),
    ],
)
def test_wrong_generators_are_explained(
    tokenizer: Any, registered: Callable[..., None], function: Callable[..., Any], words: str
) -> None:
    registered("wrong", function)
    with pytest.raises(UsageError, match=words):
        mixture(tokenizer, {"name": "g", "kind": "generated", "generator": "wrong"}).take(8)


def test_unknown_and_doubled_generators() -> None:
    with pytest.raises(UsageError, match="no generator 'nothing'"):
        find_generator("nothing")

    def one(rng: Any, tokenizer: Any, length: int) -> list[int]:
        return []

    def two(rng: Any, tokenizer: Any, length: int) -> list[int]:
        return []

    source("test-doubled")(one)
    source("test-doubled")(one)
    with pytest.raises(RopewalkError, match="registered twice"):
        source("test-doubled")(two)


def test_documents_end_and_are_made_when_needed(tokenizer: Any) -> None:
    made: list[str] = []

    class Counting:
        bos_token_id, eos_token_id = None, tokenizer.eos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            made.append(text)
            return tokenizer(text, **options)

    documents = Documents([("a", "ab"), ("b", ""), ("c", "c")], Counting())
    assert documents.ids(2)[-1] == tokenizer.eos_token_id
    assert documents.ids(2) is documents.ids(2)
    assert made == ["c"]
    assert documents.lengths.tolist() == [3, 1, 2]


def test_texts_begin_as_the_tokenizer_begins_them() -> None:
    class Beginning:
        bos_token_id, eos_token_id = 300, None

        def __init__(self, adds: bool) -> None:
            self.adds = adds

        def __call__(self, texts: Any, add_special_tokens: bool = True, **options: Any) -> dict[str, Any]:
            begin = [300] if self.adds and add_special_tokens else []
            return {"input_ids": [*begin, len(texts)] if texts else begin}

    for adds, expected in ((True, [300, 2]), (False, [2])):
        assert Documents([("a", "ab")], Beginning(adds)).ids(0).tolist() == expected


def sample_of(length: int, mark: int) -> Sample:
    ids = np.full(length, mark, dtype=np.int64)
    return Sample(ids, np.ones(length, np.float32), np.zeros(length, np.int32), (f"d{mark}",))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_rank_gets_the_same_number_of_batches_and_every_row_counts_once(world: int) -> None:
    samples = [sample_of(64, 1), *(sample_of(16, number) for number in range(2, 9))]
    steps = [make_step(samples, 32, rank, world) for rank in range(world)]
    assert len({len(step.micro) for step in steps}) == 1
    counted = [
        (int(row[0]), len(row))
        for step in steps
        for batch in step.micro
        for row, labels in zip(batch["input_ids"], batch["labels"])
        if bool((labels != -100).any())
    ]
    assert sorted(counted) == sorted((int(sample.ids[0]), len(sample)) for sample in samples)
    assert {step.num_tokens for step in steps} == {64 + 7 * 16}
    assert all(batch["input_ids"].numel() <= 64 for step in steps for batch in step.micro)


def test_an_epoch_lasts_until_the_last_source_is_through(tokenizer: Any, tmp_path: Path) -> None:
    """9 tokens at 3 of 4 last 12 tokens of the mixture, 30 at 1 of 4 last 120; with equal shares 60."""
    for name, size in (("a", 8), ("b", 29)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.txt").write_text("x" * size)
    digits = {"name": "g", "kind": "generated", "generator": "digits", "share": 4}
    both = [part(tmp_path / "a", "a", share=3), part(tmp_path / "b", "b", share=1)]
    assert mixture(tokenizer, *both).tokens_per_epoch == 120
    assert mixture(tokenizer, *(one | {"share": 1} for one in both)).tokens_per_epoch == 60
    assert mixture(tokenizer, both[0]).tokens_per_epoch == 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(generators.GENERATORS._things, "digits", lambda rng, tokenizer, length: [1])
        assert mixture(tokenizer, *both, digits).tokens_per_epoch == 240
        assert mixture(tokenizer, digits).tokens_per_epoch == 0


def test_a_stage_gives_the_sources_other_shares(tokenizer: Any, text_folder: Path) -> None:
    mixed = mixture(tokenizer, part(text_folder, "a", share=3), part(text_folder, "b"))

    def served(count: int) -> list[str]:
        return [mixed.take(64).names[0].partition(":")[0] for _ in range(count)]

    assert served(40).count("a") == 30
    mixed.share({"b": 1.0})
    assert set(served(10)) == {"b"}
    mixed.share(None)
    # Counted from here on: the pause of `a` is not made up for.
    assert served(40).count("a") == 30


def test_a_byte_order_mark_belongs_to_no_text(tmp_path):
    """Editors on Windows write one; before a line of JSON it made the line unreadable."""
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n')
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    for kind, name in (("jsonl", "a.jsonl"), ("text", "a.txt")):
        part = SourcePart(name="a", kind=kind, paths=[str(tmp_path / name)])
        assert [text for _, text in documents_of(part)] == ["one"]
