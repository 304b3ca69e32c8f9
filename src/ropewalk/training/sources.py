"""Where text comes from: the registry of generators by name, and the documents of files and of the corpus."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.training.recipe import SourcePart

ENTRY_POINTS = "ropewalk.sources"
BUILT_IN = ("ropewalk.hemp.sources",)

Generator = Callable[..., Any]
_GENERATORS: dict[str, Generator] = {}
_loaded = False


def source(name: str) -> Callable[[Generator], Generator]:
    """Register a generator of training samples under a name.

    It is called as `f(rng, tokenizer, length, **parameters)` with a numpy Generator that belongs to this one sample,
    and returns at most `length` token ids, or a pair (ids, loss weight of each id). While it returns fewer it is
    called again for the rest; an empty answer ends the sample, and the rest is padding without loss.
    """

    def register(function: Generator) -> Generator:
        known = _GENERATORS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise RopewalkError(
                f"generator {name!r} is registered twice ({known.__module__} and {function.__module__})",
                hint="rename one of them",
            )
        _GENERATORS[name] = function
        return function

    return register


def find_generator(name: str) -> Generator:
    """The generator of that name; an unknown one lists those that exist."""
    _load_plugins()
    if name in _GENERATORS:
        return _GENERATORS[name]
    near = difflib.get_close_matches(name, _GENERATORS, n=2)
    known = ", ".join(sorted(_GENERATORS)) or "none"
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"registered: {known}; --import MODULE loads your own"
    )
    raise UsageError(f"no generator {one_line(name, 60)!r}", hint=hint)


def generator_hash(function: Generator) -> str:
    """SHA-256 of the source code of the module that defines a generator: a change of code is a change of data."""
    module = inspect.getmodule(function)
    try:
        code = inspect.getsource(module if module is not None else function)
    except (OSError, TypeError):
        code = f"{function.__module__}.{function.__qualname__}"
    return hashlib.sha256(code.encode("utf-8")).hexdigest()


def _load_plugins() -> None:
    global _loaded
    if _loaded:
        return
    _loaded = True
    for module in BUILT_IN:
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise RopewalkError(
                f"the source plug-in {entry.name!r} ({entry.value}) does not load: {one_line(error)}",
                hint="mend or uninstall the package that brings it",
            ) from error


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
        found = _text_files(part)
    documents = []
    for name, text in found:
        if text.strip():
            documents.append((name, text))
        if part.max_documents is not None and len(documents) >= part.max_documents:
            break
    if not documents:
        raise UsageError(f"source {part.name!r} has no text", hint="check its paths")
    return documents


def _files(part: SourcePart) -> Iterator[Path]:
    for written in part.paths:
        path = Path(written).expanduser()
        if path.is_file():
            yield path
            continue
        if path.is_dir():
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


def _text_files(part: SourcePart) -> Iterator[tuple[str, str]]:
    for path in _files(part):
        yield str(path), _read_text(part, path)


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
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"source {part.name!r}: {path} is not UTF-8 text", hint="leave it out") from error
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UsageError(
            f"source {part.name!r}: cannot read {path} ({reason})", hint="check the path"
        ) from error
