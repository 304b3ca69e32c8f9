"""Where text comes from: the documents of files, data sets and the corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ropewalk.errors import UsageError, one_line
from ropewalk.training.data.chat import Conversation, conversation_of
from ropewalk.training.recipe.data import SourcePart


def documents_of(part: SourcePart) -> list[tuple[str, str]]:
    """(name, text) of every document of a text source, in a fixed order."""
    if part.kind == "corpus":
        from ropewalk.text.corpus import training_documents

        found: Iterable[tuple[str, str]] = ((item.name, item.text) for item in training_documents())
    elif part.kind == "dataset":
        from ropewalk.text.corpus import read_documents

        limit = part.max_documents
        found = ((item.name, item.text) for path in part.paths for item in read_documents(path, limit=limit))
    elif part.kind == "jsonl":
        found = _json_lines(part)
    else:
        found = ((str(path), _read_text(part, path)) for path in _files(part))
    documents = []
    for name, text in found:
        if text.strip():
            documents.append((name, text))
        if part.max_documents is not None and len(documents) >= part.max_documents:
            break
    if not documents:
        raise UsageError(f"source {part.name!r} has no text", hint="check its paths")
    return documents


def conversations_of(part: SourcePart) -> list[tuple[str, Conversation]]:
    """(name, conversation) of every line of a chat source, in a fixed order."""
    found: list[tuple[str, Conversation]] = []
    for path in _files(part):
        # Not splitlines: characters such as U+2028 may stand inside a JSON string.
        for number, line in enumerate(_read_text(part, path).split("\n"), start=1):
            if part.max_documents is not None and len(found) >= part.max_documents:
                return found
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                found.append((where, conversation_of(json.loads(line), where)))
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"source {part.name!r}: {where} is not JSON", hint="one object a line"
                ) from error
    if not found:
        raise UsageError(f"source {part.name!r} has no conversation", hint="check its paths")
    return found


def _files(part: SourcePart) -> Iterator[Path]:
    for written in part.paths:
        path = Path(written).expanduser()
        if path.is_file():
            yield path
            continue
        if path.is_dir():
            # File systems list in any order, and the order is part of what the data is.
            files = sorted(
                item for item in path.rglob("*") if item.is_file() and not item.name.startswith(".")
            )
        else:
            files = sorted(item for item in path.parent.glob(path.name) if item.is_file())
        if not files:
            raise UsageError(
                f"source {part.name!r}: {one_line(written, 120)} is no file, folder or pattern with files",
                hint="paths are relative to where the command runs",
            )
        yield from files


def _json_lines(part: SourcePart) -> Iterator[tuple[str, str]]:
    for path in _files(part):
        for number, line in enumerate(_read_text(part, path).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[part.field]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UsageError(
                    f"source {part.name!r}: {path} line {number} is no JSON object with the text field {part.field!r}",
                    hint="one object a line; `field` names the key of the text",
                ) from error
            if not isinstance(text, str):
                raise UsageError(
                    f"source {part.name!r}: {path} line {number}: {part.field!r} is a {type(text).__name__}, not text",
                    hint="`field` names the key of the text",
                )
            yield f"{path}:{number}", text


def _read_text(part: SourcePart, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"source {part.name!r}: {path} is not UTF-8 text", hint="leave it out") from error
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UsageError(
            f"source {part.name!r}: cannot read {path} ({reason})", hint="check the path"
        ) from error
