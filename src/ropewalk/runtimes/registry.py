"""Every program by name. Each file of `programs/` is imported, so adding one (and its facts) is enough."""

from __future__ import annotations

from ropewalk.runtimes.base import RUNTIMES, Runtime
from ropewalk.runtimes.known import Facts, facts_of


def runtimes() -> dict[str, Runtime]:
    """Every program by name, in the order that tables show them."""
    return dict(RUNTIMES)


def find_runtime(name: str) -> Runtime:
    """The program of that name; an unknown one suggests near misses."""
    wanted = name.strip().lower()
    return RUNTIMES.find("llama.cpp" if wanted == "llama_cpp" else wanted, cutoff=0.4)


def facts_about(runtime: Runtime) -> Facts:
    """What is known about a program."""
    return facts_of(runtime.name, tuple(runtime.forms), runtime.facts_folder)
