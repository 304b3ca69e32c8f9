"""Pairs two commands or two functions, A B A B ..., in one run and reports medians, spread and the ratio pair by pair.

Machines drift; a ratio of neighbours does not. Every performance claim of the project comes from here.

    result = compare_functions("eval-prefix", ours, theirs, runs=5)
    write_results([result], Path("bench/out/eval.json"))
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of a series."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class Comparison:
    """Ours beside theirs in one quantity. `ratio` is theirs/ours pair by pair: above 1, ours needs less of it."""

    name: str
    quantity: str
    ours: Spread
    theirs: Spread
    ratio: Spread
    runs: int
    target: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One line for a person."""
        goal = f"  (target {self.target})" if self.target else ""
        return (
            f"{self.name:<28} {self.quantity:<9} ours {self.ours.median:9.4g}  theirs {self.theirs.median:9.4g}  "
            f"ratio {self.ratio.median:6.2f} [{self.ratio.minimum:.2f} .. {self.ratio.maximum:.2f}]{goal}"
        )


def compare_series(
    name: str,
    quantity: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    target: str = "",
    **detail: Any,
) -> Comparison:
    """A comparison from figures measured in pairs elsewhere (for example peak memory of child processes)."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        name,
        quantity,
        Spread.of(ours),
        Spread.of(theirs),
        Spread.of(ratios),
        len(ratios),
        target,
        dict(detail),
    )


def compare_functions(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    runs: int = 5,
    warmup: int = 1,
    target: str = "",
    **detail: Any,
) -> Comparison:
    """Wall seconds of two functions in this process, in turn."""
    for _ in range(warmup):
        ours()
        theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(runs)]
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    return compare_series(name, "seconds", first, second, target=target, **detail)


def compare_commands(
    name: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    runs: int = 7,
    warmup: int = 1,
    target: str = "",
    **detail: Any,
) -> Comparison:
    """Wall seconds of two whole processes, start-up included, in turn. A command that fails stops the benchmark."""
    return compare_functions(
        name, lambda: _run(ours), lambda: _run(theirs), runs=runs, warmup=warmup, target=target, **detail
    )


def write_results(results: Sequence[Comparison], path: Path) -> None:
    """All results with the machine they were measured on, as JSON; and one line each on the terminal."""
    for result in results:
        print(result.line())
    document = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "measured": time.strftime("%Y-%m-%d"),
        "results": [asdict(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(list(command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} failed ({done.returncode}): {done.stderr.decode(errors='replace')[-400:]}"
        )
