"""The table of figures: what each shows, and whether it is made from a model's config or from runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ropewalk.registry import Registry
from ropewalk.report.figure import Figure

Build = TypeVar("Build", bound=Callable[[Any], Figure])


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure: what it shows, and the function that makes it from a model's view or from views of runs."""

    name: str
    shows: str
    source: Literal["model", "run"]
    build: Callable[[Any], Figure]
    run_kinds: tuple[str, ...] = ()


# A page tells a model from its geometry to its memory, and runs from their losses to their training.
KINDS: Registry[FigureKind] = Registry(
    "figure",
    folder="ropewalk.report.figures",
    first=(
        "wavelength",
        "profile",
        "angles",
        "spread",
        "decay",
        "resolution",
        "memory",
        "loss-length",
        "loss-position",
        "retrieval",
        "trade",
        "entropy",
        "training",
    ),
)


def figure_kind(
    name: str, *, shows: str, source: Literal["model", "run"], run_kinds: tuple[str, ...] = ()
) -> Callable[[Build], Build]:
    """Register a function as the kind of figure `name`; `run_kinds` are the runs that can hold it."""

    def register(function: Build) -> Build:
        KINDS.add(name, FigureKind(name, shows, source, function, run_kinds), home=function)
        return function

    return register


def find_kind(name: str) -> FigureKind:
    """The kind of that name; an unknown one suggests near misses."""
    return KINDS.find(name)


def kinds_for(run_kind: str) -> Sequence[FigureKind]:
    """The figures that a run of that kind can hold."""
    return [kind for kind in KINDS.values() if run_kind in kind.run_kinds]
