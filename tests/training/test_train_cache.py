"""Kept tokens change nothing but the time: the same rows, whatever was kept, cut off, damaged or written at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.training.data.cache import TokenCache, TokenStore, cache_place, digest_of
from ropewalk.training.data.mixture import Mixture, RowRule
from ropewalk.training.data.report import token_lengths
from ropewalk.training.recipe.data import DataPart
from ropewalk.units import format_bytes

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
Made = Callable[..., Mixture]


class Counting:
    """A tokenizer that counts the texts it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.texts = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, text: Any, **options: Any) -> Any:
        self.texts += len(text) if isinstance(text, list) else bool(text)
        return self.inner(text, **options)


@pytest.fixture
def tokenizer(byte_tokenizer: Path) -> Counting:
    from transformers import AutoTokenizer

    return Counting(AutoTokenizer.from_pretrained(byte_tokenizer))


@pytest.fixture
def talks(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    lines = [
        {"messages": [{"role": "user", "content": "q" * size}, {"role": "assistant", "content": "a" * size}]}
        for size in (3, 9, 30, 200)
    ]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = {"name": "talks", "kind": "chat", "paths": [str(tmp_path / "talks.jsonl")]}
    return given | {"template": str(tmp_path / "template.jinja")}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in use."""
    monkeypatch.setenv("ROPEWALK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make(tokenizer: Counting, text_folder: Path, talks: dict[str, Any]) -> Made:
    """`make()`: the mixture of a text source with long documents, or of conversations."""

    def made(chat: bool = False) -> Mixture:
        if chat:
            return Mixture(DataPart.model_validate({"sources": [talks]}), tokenizer, 0, RowRule("fit", 90))
        text = {"name": "text", "kind": "text", "paths": [str(text_folder)]}
        long = {"min_length": 400, "share": 0.6}
        return Mixture(DataPart.model_validate({"sources": [text], "long_documents": long}), tokenizer, 0)

    return made


def rows_of(mixed: Mixture, count: int = 40) -> list[Any]:
    """Everything that is in the rows."""
    rows = [mixed.take(length) for length in [64, 31, 90, 9] * (count // 4)]
    return [[row.ids.tolist(), row.weights.tolist(), row.documents.tolist(), row.names] for row in rows]


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_rows_are_the_same_and_made_once(
    make: Made, tokenizer: Counting, kept: Path, monkeypatch: pytest.MonkeyPatch, chat: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("ROPEWALK_CACHE", "none")
        plain = rows_of(make(chat))
        assert tokenizer.texts
        assert not kept.exists()
    first = make(chat)
    assert rows_of(first) == plain
    tokenizer.texts = 0
    second = make(chat)
    assert rows_of(second) == plain
    assert tokenizer.texts == 0
    [store] = second.cache.stores.values()
    assert (store.read, store.made) == (4 if chat else 12, 0)
    size = format_bytes(sum(path.stat().st_size for path in store.folder.glob("*.bin")))
    assert second.cache.told() == [
        f"tokens: {store.read} documents from the cache {store.folder} ({size}), 0 made now"
    ]
    assert second.hashes() == first.hashes()


def test_lengths_are_known_without_reading_or_making(
    make: Made, tokenizer: Counting, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ropewalk.training.data import report

    monkeypatch.setattr(report, "COUNTED_CHARACTERS", 10)
    wanted, estimated = token_lengths(make().sources[0])
    assert not estimated
    assert [len(make().sources[0].documents.ids(number)) for number in range(12)] == wanted.tolist()


def test_a_document_that_changed_is_made_again_alone(
    make: Made, tokenizer: Counting, kept: Path, talks: dict[str, Any], tmp_path: Path
) -> None:
    rows_of(make(chat=True))
    path = Path(talks["paths"][0])
    path.write_text(path.read_text().replace("qqq", "qqr", 1))
    tokenizer.texts = 0
    rows = rows_of(make(chat=True))
    assert tokenizer.texts == 1
    # Another template, another store: no token of the first is taken for one of the second.
    Path(talks["template"]).write_text(TEMPLATE.replace("[", "("))
    assert rows_of(make(chat=True)) != rows
    assert tokenizer.texts == 5
    Path(talks["template"]).write_text(TEMPLATE + "{# strftime_now #}")
    rows_of(make(chat=True))
    tokenizer.texts = 0
    assert rows_of(make(chat=True)) == rows
    assert tokenizer.texts >= 4


@pytest.mark.parametrize("name", ["ids.bin", "index.bin"])
def test_cut_off_anywhere_it_is_whole_documents_or_made_again(make: Made, kept: Path, name: str) -> None:
    plain = rows_of(make())
    [path] = kept.glob(f"tokens/*/{name}")
    whole = path.read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 7)):
        path.write_bytes(whole[:end])
        assert rows_of(make()) == plain, end
        again = make()
        assert rows_of(again) == plain
        assert next(iter(again.cache.stores.values())).made == 0, "what was mended is kept"


def test_damaged_tokens_are_made_again_and_said(make: Made, kept: Path) -> None:
    plain = rows_of(make())
    [path] = kept.glob("tokens/*/ids.bin")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    mixed = make()
    assert rows_of(mixed) == plain
    assert "damaged" in mixed.cache.told()[-1]
    assert next(iter(mixed.cache.stores.values())).made == 1
    fine = make()
    assert rows_of(fine) == plain
    assert len(fine.cache.told()) == 1


def test_where_nothing_can_be_written_it_is_said_and_rows_are_made(
    make: Made, tokenizer: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWALK_CACHE", "none")
    plain = rows_of(make())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROPEWALK_CACHE", str(tmp_path / "file"))
    mixed = make()
    tokenizer.texts = 0
    assert rows_of(mixed) == plain
    assert tokenizer.texts == 0, "the lengths had them made: nothing is made twice"
    assert "tokens are not kept" in mixed.cache.told()[-1]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_CACHE", "None")
    assert cache_place() is None
    monkeypatch.setenv("ROPEWALK_CACHE", "/a/b")
    assert cache_place() == Path("/a/b")
    monkeypatch.delenv("ROPEWALK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_place() == Path("/c/ropewalk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_place() == Path.home() / ".cache/ropewalk"
    assert TokenCache(None).told() == [
        "tokens are not kept: the tokenizer is not one of the tokenizers library"
    ]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ropewalk.training.data.cache import TokenStore, digest_of
store = TokenStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    store.put([(digest_of(str(number)), np.arange(number, number + 50 + number % 7, dtype=np.int32))])
"""


def check_numbers(folder: Path, count: int) -> int:
    """Every number that is there is right; how many there are."""
    store = TokenStore(folder)
    found = 0
    for number in range(count):
        ids = store.get(digest_of(str(number)))
        if ids is not None:
            assert np.array_equal(ids, np.arange(number, number + 50 + number % 7))
            found += 1
    assert not store.trouble
    return found


def test_two_writers_at_once_and_one_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "both")]
    both = [subprocess.Popen([*command, "100"]) for _ in range(2)]
    doomed = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "killed"), "100000"])
    assert [writer.wait(timeout=60) for writer in both] == [0, 0]
    assert check_numbers(tmp_path / "both", 100) == 100
    assert (tmp_path / "both/index.bin").stat().st_size == 100 * 32
    index = tmp_path / "killed/index.bin"
    while not (index.is_file() and index.stat().st_size > 50 * 32):
        time.sleep(0.01)
    doomed.kill()
    doomed.wait()
    kept = index.stat().st_size // 32
    assert check_numbers(tmp_path / "killed", kept + 50) == kept
    # What comes after it goes on from there, lock and all.
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "killed"), str(kept + 20)], check=True)
    assert check_numbers(tmp_path / "killed", kept + 50) == kept + 20
