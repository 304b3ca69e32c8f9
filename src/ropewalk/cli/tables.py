"""Tables that fit the screen: columns that do not fit stand under their row instead of being cut into syllables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP = 2
_INDENT = "    "
# No column is folded below this: shorter pieces are no longer words.
_NARROWEST = 12


@dataclass(frozen=True)
class Column:
    """One column. `below` is the order in which columns leave for the line under the row; 0 stays in any case."""

    name: str
    right: bool = False
    below: int = 0


def show_table(
    screen: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | Text]],
    *,
    title: str | None = None,
) -> None:
    """Print rows under their headers. Where the widest row exceeds the screen, columns move under it by `below`,
    as `name value`; what still does not fit is folded."""
    from rich.cells import cell_len
    from rich.text import Text

    widths = [
        max(cell_len(str(text)) for text in (column.name, *(row[i] for row in rows)))
        for i, column in enumerate(columns)
    ]
    placed = list(range(len(columns)))
    leaving = sorted((i for i in placed if columns[i].below), key=lambda i: columns[i].below)
    while leaving and _needed(widths, placed) > screen.width:
        placed.remove(leaving.pop(0))
    moved = [i for i in range(len(columns)) if i not in placed]
    excess = _needed(widths, placed) - screen.width
    if excess > 0:
        widest = max(placed, key=lambda i: widths[i])
        # One column folded leaves the others whole; all folded a little are all unreadable.
        widths[widest] = max(_NARROWEST, widths[widest] - excess)
    if title:
        screen.print(title, markup=False)
    header = [Text(column.name, style="bold") for column in columns]
    if any(column.name for column in columns):
        _show_row(screen, columns, header, placed, widths)
    for row in rows:
        _show_row(screen, columns, row, placed, widths)
        # A dash says nothing under a row, where no column has to be filled.
        said = "; ".join(f"{columns[i].name} {row[i]}".strip() for i in moved if str(row[i]).strip(" -"))
        if said:
            screen.print(_wrapped(said, screen.width), markup=False)


def _needed(widths: Sequence[int], placed: Sequence[int]) -> int:
    return sum(widths[i] + _GAP for i in placed) - _GAP


def _show_row(
    screen: Console,
    columns: Sequence[Column],
    row: Sequence[str | Text],
    placed: Sequence[int],
    widths: Sequence[int],
) -> None:
    """One row as a table of its own, so that a line can stand between it and the next."""
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, _GAP, 0, 0))
    for i in placed:
        line.add_column(width=widths[i], justify="right" if columns[i].right else "left", overflow="fold")
    line.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in (row[i] for i in placed)))
    screen.print(line)


def _wrapped(said: str, width: int) -> str:
    return textwrap.fill(
        said,
        max(width, 24),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
