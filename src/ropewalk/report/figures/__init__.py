"""Every kind of figure, one file each: a pure function from a view to a `Figure`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ropewalk.errors import UsageError, near_miss, one_line
from ropewalk.report.figure import Figure


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure: what it shows, and whether it is made from a model's config or from runs."""

    name: str
    shows: str
    source: Literal["model", "run"]
    run_kinds: tuple[str, ...] = ()

    @property
    def build(self) -> Callable[[Any], Figure]:
        """The function that makes it; loaded when asked for."""
        module = import_module(f"ropewalk.report.figures.{self.name.replace('-', '_')}")
        function: Callable[[Any], Figure] = module.figure
        return function


_MEASURED = ("eval", "compare", "tune")
KINDS: dict[str, FigureKind] = {
    kind.name: kind
    for kind in (
        FigureKind("wavelength", "tokens per turn of every pair, before and after", "model"),
        FigureKind("profile", "how much each method stretches each pair", "model"),
        FigureKind("angles", "angles seen in training and met after the stretch, as circles", "model"),
        FigureKind("spread", "how evenly positions fall on each pair's circle", "model"),
        FigureKind("decay", "the rotary dot product with distance", "model"),
        FigureKind("resolution", "how far apart neighbouring tokens still stand", "model"),
        FigureKind("memory", "inference memory by length", "model"),
        FigureKind("loss-length", "loss by length, with confidence intervals and controls", "run", _MEASURED),
        FigureKind("loss-position", "loss by position, with a confidence band", "run", ("eval",)),
        FigureKind("retrieval", "retrieval accuracy by depth and length", "run", _MEASURED),
        FigureKind("trade", "cost at short length against gain at long length", "run", ("compare",)),
        FigureKind("entropy", "attention entropy by layer and length", "run", ("eval",)),
        FigureKind("training", "training curves with length stages", "run", ("train", "tune")),
    )
}


def find_kind(name: str) -> FigureKind:
    """The kind of that name; an unknown one suggests near misses."""
    if name in KINDS:
        return KINDS[name]
    hint = near_miss(name, KINDS, otherwise=f"one of {', '.join(KINDS)}")
    raise UsageError(f"no figure {one_line(name, 60)!r}", hint=hint)


def kinds_for(run_kind: str) -> Sequence[FigureKind]:
    """The figures that a run of that kind can hold."""
    return [kind for kind in KINDS.values() if run_kind in kind.run_kinds]
