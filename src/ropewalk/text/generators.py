"""Generators of text by name: made samples that a recipe can name as a source, ours, yours and those of plug-ins."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from ropewalk.registry import Registry

Generator = Callable[..., Any]
GENERATORS: Registry[Generator] = Registry("generator", group="ropewalk.sources")


def source(name: str) -> Callable[[Generator], Generator]:
    """Register a generator of training samples under a name.

    It is called as `f(rng, tokenizer, length, **parameters)` with a numpy Generator that belongs to this one sample,
    and returns at most `length` token ids, or a pair (ids, loss weight of each id). While it returns fewer it is
    called again for the rest; an empty answer ends the sample, and the rest is padding without loss.
    """

    def register(function: Generator) -> Generator:
        GENERATORS.add(name, function)
        return function

    return register


def find_generator(name: str) -> Generator:
    """The generator of that name; an unknown one lists those that exist."""
    known = ", ".join(sorted(GENERATORS)) or "none"
    return GENERATORS.find(name, otherwise=f"registered: {known}; --import MODULE loads your own", cutoff=0.6)


def generator_hash(function: Generator) -> str:
    """SHA-256 of the source code of the module that defines a generator: a change of code is a change of data."""
    module = inspect.getmodule(function)
    # The whole module, since a generator's helpers and word lists change its samples as much as it does itself.
    try:
        code = inspect.getsource(module if module is not None else function)
    except (OSError, TypeError):
        # Typed into a shell, or compiled: there is no file to read, and the name is all that can be held to.
        code = f"{function.__module__}.{function.__qualname__}"
    return hashlib.sha256(code.encode("utf-8")).hexdigest()
