"""Every program by name. Each file of `programs/` is imported, so adding one (and its facts) is enough."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line
from ropewalk.runtimes import programs
from ropewalk.runtimes.base import Runtime
from ropewalk.runtimes.known import Facts, facts_of

# The order people read them in; a program that is not named here follows in alphabetical order.
_ORDER = ("transformers", "vllm", "sglang", "llama.cpp", "mlx", "ollama", "exllama")


@cache
def runtimes() -> dict[str, Runtime]:
    """Every program by name, in the order that tables show them."""
    found: dict[str, Runtime] = {}
    for module in iter_modules(programs.__path__):
        made = getattr(import_module(f"{programs.__name__}.{module.name}"), "RUNTIME", None)
        if made is None:
            continue
        if made.name in found:
            raise RopewalkError(f"runtime {made.name!r} is there twice", hint="rename one of the files")
        found[made.name] = made
    rank = {name: number for number, name in enumerate(_ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: (rank.get(name, len(rank)), name))}


def find_runtime(name: str) -> Runtime:
    """The program of that name; an unknown one suggests near misses."""
    known = runtimes()
    wanted = (
        name.strip().lower().replace("_", ".")
        if name.strip().lower() == "llama_cpp"
        else name.strip().lower()
    )
    if wanted in known:
        return known[wanted]
    hint = near_miss(wanted, known, otherwise=f"use one of {', '.join(known)}", cutoff=0.4)
    raise UsageError(f"no runtime {one_line(name, 60)!r}", hint=hint)


def facts_about(runtime: Runtime) -> Facts:
    """What is known about a program."""
    return facts_of(runtime.name, tuple(runtime.forms))
