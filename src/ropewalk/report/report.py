"""`ropewalk report`: runs to one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.files import as_path, write_bytes
from ropewalk.report.page.build import Page, build, problem_line
from ropewalk.report.page.document import render

# What every page begins with.
_PAGE = b"<!doctype html>"


@dataclass(frozen=True)
class ReportResult:
    """The file, the runs that are in it, and a line for each that is not."""

    output: Path
    runs: tuple[str, ...]
    problems: tuple[str, ...]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """For `report --json`."""
        return {
            "output": str(self.output),
            "runs": list(self.runs),
            "problems": list(self.problems),
            "bytes": self.bytes,
        }


def report(
    runs: str | Path | Sequence[str | Path], output: str | Path = "report.html", *, title: str | None = None
) -> ReportResult:
    """One self-contained page from one run or several (folders, ids, or `last`).

    A run that cannot be read is named on the page and in `problems`, and the rest is still made. With no readable run
    at all nothing is written: DamagedError if one of them is damaged, else RopewalkError.
    """
    names = [runs] if isinstance(runs, str | Path) else list(runs)
    if not names:
        raise UsageError("a report of no runs", hint="name one or more; `ropewalk runs ls` lists them")
    place = as_path(output, "output")
    _refuse_other_files(place)
    page = build(names, title=title)
    if not page.runs:
        raise _nothing_readable(page)
    content = render(page)
    write_bytes(place, content)
    return ReportResult(
        output=place,
        runs=tuple(part.view.id for part in page.runs),
        problems=tuple(problem_line(problem) for problem in page.problems),
        bytes=len(content),
    )


def _refuse_other_files(place: Path) -> None:
    """A page replaces an earlier page and nothing else: any other file, as a run's own, is somebody's."""
    if not place.is_file():
        return
    try:
        with place.open("rb") as stream:
            begins = stream.read(len(_PAGE))
    except OSError:
        # What the disk says of it, the write tells.
        return
    if begins and begins.lower() != _PAGE:
        raise UsageError(
            f"{place} is there and is no page", hint="choose another output, such as report.html"
        )


def _nothing_readable(page: Page) -> RopewalkError:
    # Damage first: its exit code tells a script that trying again will not help.
    first = next((problem for problem in page.problems if problem.damaged), page.problems[0])
    more = f" (and {len(page.problems) - 1} more)" if len(page.problems) > 1 else ""
    kind = DamagedError if first.damaged else RopewalkError
    return kind(f"no run could be read: {first.message}{more}", hint=first.hint or None)
