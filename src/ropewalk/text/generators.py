"""Generators of text by name: made samples that a recipe can name as a source, ours, yours and those of plug-ins."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line

ENTRY_POINTS = "ropewalk.sources"

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
    known = ", ".join(sorted(_GENERATORS)) or "none"
    otherwise = f"registered: {known}; --import MODULE loads your own"
    hint = near_miss(name, _GENERATORS, otherwise=otherwise, cutoff=0.6)
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
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise RopewalkError(
                f"the source plug-in {entry.name!r} ({entry.value}) does not load: {one_line(error)}",
                hint="mend or uninstall the package that brings it",
            ) from error
