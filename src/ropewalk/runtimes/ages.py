"""How old a fact is: the release that it was known for beside the one that is installed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from ropewalk.runtimes.answer import Answer
from ropewalk.runtimes.base import Runtime
from ropewalk.runtimes.environments import environment_of


def installed(program: Runtime) -> dict[str, str]:
    """The program's releases on this machine, by distribution: in its own environment, else beside us."""
    found: dict[str, str] = {}
    own = environment_of(program.name)
    for name in program.packages:
        if own is not None:
            # Folders of installed metadata have an underscore for every separator.
            spelled = re.sub(r"[-_.]+", "_", name)
            for path in own.glob(f"lib/python*/site-packages/{spelled}-*.dist-info"):
                found[name] = path.name.removesuffix(".dist-info").rpartition("-")[2]
        if name not in found:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def stale(program: Runtime, answer: Answer) -> str | None:
    """In words, that what is known is known for another release than the one here; None where both agree, where the
    program is not here, or where nothing is known."""
    here = installed(program)
    for fact in answer.facts:
        for name, known in fact.known_by.versions.items():
            if name in here and not _same(known, here[name]):
                return f"known for {name} {known}, installed is {here[name]}: `ropewalk verify --runtime` tells anew"
    return None


def _same(known: str, here: str) -> bool:
    """A shorter release stands for every one that begins with it."""
    return here == known or here.startswith((f"{known}.", f"{known}+"))
