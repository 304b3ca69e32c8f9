"""Text to evaluate and train on: files, folders, `datasets` names, or the sources of the running interpreter.

The standard library needs no network and no licence question; `HELD_OUT` is the part of it that is only ever
used for evaluation, so that a model trained on the rest is measured on text that it has not seen.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.files import as_path

# Present from Python 3.11 on, long enough to fill a window, hand-written prose and code of many subjects.
HELD_OUT = (
    "_pydecimal.py",
    "argparse.py",
    "ast.py",
    "asyncio/base_events.py",
    "difflib.py",
    "doctest.py",
    "email/_header_value_parser.py",
    "http/cookiejar.py",
    "imaplib.py",
    "inspect.py",
    "logging/handlers.py",
    "mailbox.py",
    "optparse.py",
    "pickletools.py",
    "statistics.py",
    "tarfile.py",
    "turtle.py",
    "typing.py",
    "unittest/mock.py",
    "xml/dom/minidom.py",
)

# Tests, other people's packages, generated tables and whatever differs between two machines with the same Python.
_SKIPPED_FOLDERS = frozenset(
    [
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "msilib",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    ]
)
_SKIPPED_PREFIXES = ("_sysconfigdata", "_sysconfig_vars", "config-", "sitecustomize", "usercustomize")
_TEXT_COLUMNS = ("text", "content", "document")
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".parquet")


@dataclass(frozen=True)
class Document:
    """One text with the name under which reports and errors speak of it."""

    name: str
    text: str


def standard_library() -> list[Document]:
    """Every hand-written module of the running interpreter's standard library, sorted by path.

    The same Python version gives the same list; tests, installed packages and generated tables are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    documents = []
    for path in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or any(
            part.startswith(_SKIPPED_PREFIXES) for part in relative.parts
        ):
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        # A module in another encoding is left out whole: what its bytes mean would depend on its coding line.
        if text.strip() and "�" not in text:
            documents.append(Document(relative.as_posix(), text.replace("\r\n", "\n")))
    if not documents:
        raise RopewalkError(
            f"no standard-library sources under {root}",
            hint="this Python ships only compiled modules: give a text of your own with --text",
        )
    return documents


def held_out_documents() -> list[Document]:
    """The evaluation half of the standard library, in the order of `HELD_OUT`."""
    by_name = {document.name: document for document in standard_library()}
    found = [by_name[name] for name in HELD_OUT if name in by_name]
    if not found:
        raise RopewalkError(
            "none of the held-out modules is part of this Python", hint="give a text of your own with --text"
        )
    return found


def training_documents() -> list[Document]:
    """The standard library without its held-out modules."""
    return [document for document in standard_library() if document.name not in HELD_OUT]


def read_documents(text: str | Path | None, *, limit: int | None = None) -> list[Document]:
    """Documents from a file, a folder, a `datasets` name, or (with None) the held-out standard library.

    A .jsonl or .parquet file gives one document a row (column `text`, `content` or `document`), a folder one
    document a file, sorted by path. A name that is no path is asked of the `datasets` library as
    `NAME[:CONFIG][@SPLIT]`. `limit` stops after that many documents (by default 1000 of a dataset, all of a file).
    Empty files, bytes that are not UTF-8 and rows of a file without text are errors that name the place: a silent gap
    would change the measurement.
    """
    if text is None:
        return held_out_documents()[:limit]
    # An empty name, as of a variable that is not set, would be the present folder.
    path = as_path(text, "text")
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        # A name too long for the system, as when the text itself stands in the place of its file.
        raise UsageError(
            f"no text at {one_line(text, 60)} ({one_line(error.strerror or error)})",
            hint="give a file, a folder or the name of a dataset",
        ) from error
    if is_folder:
        documents = _take(_folder(path), limit)
    elif is_there:
        documents = _take(_file(path, path.name), limit)
    elif _looks_like_path(str(text)):
        raise UsageError(f"no text at {text}", hint="give a file, a folder or the name of a dataset")
    else:
        # A dataset streams without an end in sight; no measurement here uses up a thousand documents of it.
        documents = _take(_dataset(str(text)), limit or 1000)
    if not documents:
        raise RopewalkError(
            f"no documents in {text}", hint=f"a folder needs files ending in {', '.join(SUFFIXES)}"
        )
    return documents


def _take(documents: Iterator[Document], limit: int | None) -> list[Document]:
    taken = []
    for document in documents:
        taken.append(document)
        if limit is not None and len(taken) >= limit:
            break
    return taken


def _looks_like_path(text: str) -> bool:
    # `owner/name` is how the Hub spells a dataset, so that one slash alone makes no path.
    return text.startswith((".", "/", "~")) or text.endswith(SUFFIXES) or text.count("/") > 1 or "\\" in text


def _folder(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and path.suffix.lower() in SUFFIXES and not hidden:
            yield from _file(path, relative.as_posix())


def _file(path: Path, name: str) -> Iterator[Document]:
    readers: dict[str, Callable[[Path, str], Iterable[Document]]] = {".jsonl": _jsonl, ".parquet": _parquet}
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and suffix not in ("", ".log", ".tex", ".html", ".json"):
        raise UsageError(f"{path} is not a kind of text that is read", hint=f"use {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise RopewalkError(f"{path} is empty", hint="remove it or give another text")
    yield from readers.get(suffix, _plain)(path, name)


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    try:
        # Editors on Windows put a byte-order mark first, which no tokenizer should see.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise RopewalkError(
            f"{path} is not UTF-8: byte 0x{byte:02x} at offset {error.start}",
            hint="convert it first, for example with `iconv -f latin1 -t utf-8`",
        ) from error


def _plain(path: Path, name: str) -> Iterable[Document]:
    text = _decoded(path)
    if not text.strip():
        raise RopewalkError(f"{path} holds nothing but white space", hint="remove it or give another text")
    yield Document(name, text)


def _jsonl(path: Path, name: str) -> Iterable[Document]:
    for number, line in enumerate(json_lines(_decoded(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RopewalkError(
                f"{path} line {number} is not JSON ({one_line(error, 80)})",
                hint="one JSON value a line is needed",
            ) from error
        yield Document(f"{name}:{number}", _text_of(row, f"{path} line {number}"))


def json_lines(text: str) -> list[str]:
    """The lines of a JSONL file, blank ones included, so that they can be counted.

    >>> json_lines('"one\\u2028line"\\n{}')
    ['"one\\u2028line"', '{}']
    """
    # Of all that `splitlines` breaks at, JSON forbids line feeds in a string, but not U+2028, U+2029 or U+0085.
    return text.split("\n")


def _text_of(row: Any, where: str) -> str:
    value = row if isinstance(row, str) else None
    if isinstance(row, dict):
        value = next((row[column] for column in _TEXT_COLUMNS if isinstance(row.get(column), str)), None)
    if value is None or not value.strip():
        raise RopewalkError(
            f"{where} has no text",
            hint=f"a row is a string or has one of the columns {', '.join(_TEXT_COLUMNS)}",
        )
    return value


def _parquet(path: Path, name: str) -> Iterable[Document]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise RopewalkError(
            f"reading {path} needs pyarrow", hint="pip install 'ropewalk[text]', or convert it to .jsonl"
        ) from error
    try:
        table = parquet.ParquetFile(path)
        column = next((c for c in _TEXT_COLUMNS if c in table.schema_arrow.names), None)
        if column is None:
            raise RopewalkError(
                f"{path} has no text column (it has {one_line(', '.join(table.schema_arrow.names), 120)})",
                hint=f"name the column {_TEXT_COLUMNS[0]}",
            )
        number = 0
        for batch in table.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield Document(f"{name}:{number}", _text_of(value, f"{path} row {number}"))
    except (OSError, ValueError) as error:
        raise RopewalkError(f"{path} is not a readable parquet file ({one_line(error, 120)})") from error


def _dataset(name: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"no text at {name}, and the datasets library that could look it up is not installed",
            hint="give a file or folder, or pip install datasets",
        ) from error
    path, _, split = name.partition("@")
    path, _, config = path.partition(":")
    try:
        rows = datasets.load_dataset(path, config or None, split=split or "test", streaming=True)
        for number, row in enumerate(rows, start=1):
            # Published datasets hold empty rows by design (wikitext between its paragraphs): no gap of ours.
            if any(isinstance(row.get(column), str) and row[column].strip() for column in _TEXT_COLUMNS):
                yield Document(f"{name}:{number}", _text_of(row, f"{name} row {number}"))
    except RopewalkError:
        raise
    # Whatever a loading script, a network or a cache raises, in libraries that promise no class of errors.
    except Exception as error:
        raise RopewalkError(
            f"dataset {name!r} could not be read ({type(error).__name__}: {one_line(error, 160)})",
            hint="check NAME[:CONFIG][@SPLIT] and the network; a local file or folder always works",
        ) from error
