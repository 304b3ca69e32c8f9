"""Reading text: every kind of file, and every kind of bad file named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.corpus import HELD_OUT, Document, read_documents, training_documents


def test_the_default_corpus_is_split_and_deterministic() -> None:
    evaluation, training = read_documents(None), training_documents()
    names = [document.name for document in training]
    assert [document.name for document in evaluation] == list(HELD_OUT)
    assert not set(HELD_OUT) & set(names)
    assert names == sorted(names)
    assert not [name for name in names if "site-packages" in name or name.startswith(("test/", "lib2to3/"))]
    assert sum(len(document.text) for document in training) > 3_000_000


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("plain\r\ntext")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n"two"\n')
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = read_documents(tmp_path)
    assert [(d.name, d.text) for d in found] == [
        ("a.jsonl:1", "one"),
        ("a.jsonl:3", "two"),
        ("b.txt", "plain\ntext"),
    ]
    assert len(read_documents(tmp_path, limit=2)) == 2


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"content": ["one", "two"]}), tmp_path / "a.parquet")
    assert [d.text for d in read_documents(tmp_path / "a.parquet")] == ["one", "two"]
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(RopewalkError, match=r"b\.parquet is not a readable parquet file"):
        read_documents(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("white.txt", b" \n ", "nothing but white space"),
        ("latin.txt", b"caf\xe9 au lait", "byte 0xe9 at offset 3"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("other.jsonl", b'{"body": "a"}', "line 1 has no text"),
        ("data.zip", b"PK", "not a kind of text"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RopewalkError, match=said):
        read_documents(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text at"):
        read_documents(tmp_path / "nothing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RopewalkError, match="no documents in"):
        read_documents(tmp_path / "empty")
    with pytest.raises(RopewalkError, match="dataset 'nobody-has-this' could not be read"):
        read_documents("nobody-has-this")


def test_rows_may_be_strings_with_unicode(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps("naïve") + "\n")
    assert read_documents(tmp_path / "a.jsonl")[0].text == "naïve"


def test_segments_say_how_much_text_there_is() -> None:
    """Encoding stops when there is enough; the rest is estimated at the rate so far. Here a token is a byte."""
    from ropewalk.text.segments import cut
    from ropewalk.training.hemp.tokenizer import build_tokenizer

    documents = [Document(str(number), "abcdefghij" * 10) for number in range(6)]
    found = cut(documents, build_tokenizer(), 40, limit=2)
    assert len(found.items) == 2
    assert (found.tokens_available, found.segments_available) == (600, 12)
    every = cut(documents, build_tokenizer(), 40, limit=50)
    assert (len(every.items), every.segments_available) == (12, 12)
    joined = cut(documents, build_tokenizer(), 200, limit=1)
    # Two line breaks stand behind each document that is joined.
    assert joined.joined
    assert (joined.tokens_available, joined.segments_available) == (612, 3)


def test_a_line_of_jsonl_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """What else Python calls a line break may stand in a JSON string as it is, and in web text often does."""
    text = "one\u2028two\u2029three\x85four"
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for _ in range(2))
    (tmp_path / "a.jsonl").write_bytes(rows.encode())
    assert [(d.name, d.text) for d in read_documents(tmp_path / "a.jsonl")] == [
        ("a.jsonl:1", text),
        ("a.jsonl:2", text),
    ]


def test_a_text_in_the_place_of_its_file_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"no text at Once upon .*… \(File name too long\)"):
        read_documents("Once upon a time there was a window. " * 20)


def test_the_remark_on_joined_documents_says_why() -> None:
    from ropewalk.text.segments import cut
    from ropewalk.training.hemp.tokenizer import build_tokenizer

    documents = [Document("a", "a" * 100), Document("b", "b" * 100)]
    said = "the documents were joined into one text"
    assert cut(documents, build_tokenizer(), 40, join="yes").remarks == (f"{said}, as asked",)
    short = f"{said}, since no single document is long enough"
    assert cut(documents, build_tokenizer(), 150).remarks == (short,)


class Refusing:
    """A tokenizer whose chat template wants something else than a lone user message."""

    chat_template = "{{ raise_exception('a system message comes first') }}"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def apply_chat_template(self, *given: object, **options: object) -> str:
        raise ValueError("a system message\ncomes first")


def test_a_chat_template_that_refuses_is_a_failure_of_ours() -> None:
    from ropewalk.text.encoder import TokenizerEncoder, chat_frame

    with pytest.raises(RopewalkError, match=r"\(a system message comes first\)") as caught:
        chat_frame(TokenizerEncoder(Refusing()))
    assert "--style completion" in str(caught.value.hint)
