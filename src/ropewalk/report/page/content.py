"""What a page holds, as data: verdicts, tiles, tables, figures. The template draws it and decides nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.registry import Registry
from ropewalk.report.figure import Figure
from ropewalk.report.views import RunView
from ropewalk.units import format_length

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what it sorts by, and where the number comes from."""

    text: str
    sort: float | str = ""
    source: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """A column; numbers stand right."""

    label: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A sortable table."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    sources: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Tile:
    """A number that matters, large."""

    label: str
    value: str
    note: str = ""
    source: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer, before anything else."""

    headline: str
    points: tuple[str, ...] = ()
    tone: Tone = ""


@dataclass(frozen=True)
class Missing:
    """A figure that this run has no data for, and what to run to get it."""

    kind: str
    shows: str
    message: str
    hint: str


@dataclass(frozen=True)
class Content:
    """What one run has to say."""

    verdict: Verdict
    tiles: tuple[Tile, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure | Missing, ...] = ()

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        tiles: Iterable[Tile],
        tables: Iterable[Table | None],
        figures: tuple[Figure | Missing, ...],
    ) -> Content:
        """With the tables that there was something for."""
        return cls(verdict, tuple(tiles), tuple(table for table in tables if table is not None), figures)


def number_cell(value: Any, source: str = "", *, digits: int = 3, tone: Tone = "") -> Cell:
    """A number with a fixed count of decimals; anything else shows as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value_cell(value, source)
    if isinstance(value, float) and not math.isfinite(value):
        return Cell("–", math.inf, source, "muted")
    return Cell(shown_number(value, digits), float(value), source, tone)


def shown_number(value: float, digits: int = 3) -> str:
    """Whole numbers with thin spaces between thousands, small and large ones in scientific form."""
    # What is left of a sum that should be zero, and would show as -0.000.
    if abs(value) < 1e-9:
        value = value if isinstance(value, int) else 0.0
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    if value != 0 and (abs(value) < 10 ** -(digits + 1) or abs(value) >= 1e9):
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def length_cell(value: Any, source: str = "") -> Cell:
    """A token count in its short spelling."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value_cell(value, source)
    return Cell(format_length(int(value)), float(value), source)


def value_cell(value: Any, source: str = "") -> Cell:
    """Any JSON value in one line."""
    if value is None:
        return Cell("–", "", source, "muted")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(value), source)
    if isinstance(value, int | float):
        return number_cell(value, source)
    if isinstance(value, str):
        return Cell(value, value, source)
    if isinstance(value, Mapping) and not any(isinstance(item, dict | list) for item in value.values()):
        text = ", ".join(f"{key} {_inline(item)}" for key, item in value.items())
        return Cell(text, text, source)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        text = ", ".join(str(item) for item in value)
        return Cell(text, text[:80], source)
    text = json.dumps(_set(value), ensure_ascii=False)
    # A cell is for reading; whoever needs all of it finds it at the source that the cell names.
    return Cell(text if len(text) <= 400 else text[:399] + "…", text[:80], source)


def _inline(value: Any) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _set(value: Any) -> Any:
    """A document without what is not set: null, and empty lists and mappings."""
    if isinstance(value, Mapping):
        kept = {key: _set(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {} and item != []}
    return [_set(item) for item in value] if isinstance(value, list) else value


def key_table(title: str, document: Mapping[str, Any], source: str) -> Table:
    """A mapping as two columns; inner mappings are flattened with dots, what is not set is left out."""
    rows = tuple(
        (Cell(name.replace("_", " "), name), value_cell(value, f"{source}/{name.replace('.', '/')}"))
        for name, value in flattened(document)
        if value is not None and value != [] and value != {}
    )
    return Table(title, (Column("name", numeric=False), Column("value", numeric=False)), rows)


def flattened(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every leaf; lists stay whole."""
    found: list[tuple[str, Any]] = []
    for name, value in document.items():
        # A document may nest without end, and a name longer than this fits no cell.
        if isinstance(value, Mapping) and value and len(prefix) < 60:
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def sentences(text: Any) -> list[str]:
    """A text from a run, one sentence an item."""
    flat = sentence(text)
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", flat) if flat else []


def sentence(text: Any) -> str:
    """A text from a run as one line, ended with a full stop."""
    flat = " ".join(str(text).split())
    return flat if not flat or flat[-1] in ".!?" else flat + "."


Tell = Callable[[RunView], Content]
CONTENT: Registry[Tell] = Registry("kind of run", folder="ropewalk.report.page.kinds")


def content_of(kind: str) -> Callable[[Tell], Tell]:
    """Register what runs of a kind say."""

    def register(function: Tell) -> Tell:
        CONTENT.add(kind, function)
        return function

    return register
