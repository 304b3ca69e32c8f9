"""Reading config.json strictly: size, encoding, nesting, numbers that no JSON reader agrees on, names given twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.source import CONFIG_NAME, config_path, is_gguf, resolve
from ropewalk.models.structure.values import shown

TOKENIZER_NAME = "tokenizer_config.json"
MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64
_MEND = "write the file again, or download it again"


def read_config(source: str | Path) -> dict[str, Any]:
    """The config.json of a folder, a file, `hemp` or a Hub id, as a dictionary; of a GGUF file what it says itself.

    Refused, each in one line: a file above 64 MiB, bytes that are not UTF-8, JSON nested deeper than 64 levels,
    numbers that overflow, a name that occurs twice in one mapping, text with lone surrogates. NaN and infinities,
    which older writers left bare, become the strict spelling of newer ones, {"__float__": "Infinity"}.
    """
    path = config_path(resolve(source))
    if is_gguf(path):
        from ropewalk.models.gguf.config import config_of

        return config_of(path)
    return read_json(path)


def tokenizer_settings(config: Path) -> dict[str, Any] | None:
    """tokenizer_config.json beside a configuration file, which is evidence of its window; None where it has none."""
    beside = config.parent / TOKENIZER_NAME
    if config.name != CONFIG_NAME or not beside.is_file():
        return None
    try:
        return read_json(beside)
    except RopewalkError:
        # A broken tokenizer file is its own command's matter; the rotary facts do not depend on it.
        return None


def read_json(path: Path) -> dict[str, Any]:
    """One JSON mapping from a file, checked as `read_config` says."""
    where = shown(str(path), 200).strip("'")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RopewalkError(
                f"{where} has {size} bytes; a configuration has at most {MAX_BYTES}", hint=_MEND
            )
        # A pipe or a device has no size and no end.
        if not path.is_file():
            raise RopewalkError(f"{where} is not a regular file", hint="give a folder or a config.json")
        content = path.read_bytes()
    except OSError as error:
        raise RopewalkError(
            f"cannot read {where} ({error.strerror or type(error).__name__})",
            hint="check the path and its permissions",
        ) from error
    return parse_json(content, where)


def parse_json(content: bytes, where: str = "config.json") -> dict[str, Any]:
    """One JSON mapping from bytes; `where` names it in errors."""
    try:
        # Editors on Windows put a byte order mark in front, which no JSON begins with.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RopewalkError(f"{where} is not text (byte {error.start} is not UTF-8)", hint=_MEND) from error
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_spelled_out, parse_float=_finite)
    except RecursionError as error:
        raise RopewalkError(f"{where} is nested deeper than {MAX_DEPTH} levels", hint=_MEND) from error
    except json.JSONDecodeError as error:
        what = (
            "is empty"
            if not text.strip()
            else f"is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        )
        raise RopewalkError(f"{where} {what}", hint=_MEND) from error
    except _RefusedError as error:
        raise RopewalkError(f"{where} {error}", hint="correct it in the file") from error
    except ValueError as error:
        # json.loads converts integers itself, and Python refuses those of thousands of digits.
        raise RopewalkError(
            f"{where} holds a number too long to read", hint="correct it in the file"
        ) from error
    if not isinstance(document, dict):
        raise RopewalkError(
            f"{where} holds {shown(document)}, not a mapping", hint="a configuration is {...}"
        )
    _check_tree(document, where)
    return document


class _RefusedError(ValueError):
    """Valid to Python's reader, refused here."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(
            f"names {shown(twice)} twice in one mapping, and readers disagree on which counts"
        )
    return found


def _spelled_out(text: str) -> dict[str, str]:
    """NaN, Infinity, -Infinity: no rotary value can be one, but state-space models write such limits."""
    return {"__float__": text}


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _RefusedError(f"holds {shown(text, 40)}, which overflows to infinity")
    return value


def _check_tree(document: Any, where: str) -> None:
    """Depth and text of everything inside, without recursion."""
    waiting = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RopewalkError(f"{where} is nested deeper than {MAX_DEPTH} levels", hint=_MEND)
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for item in value.values()]
            waiting += [(name, depth) for name in value]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, str) and not _is_unicode(value):
            raise RopewalkError(
                f"{where} holds {shown(value)}, which is not valid Unicode text", hint="correct it"
            )


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
