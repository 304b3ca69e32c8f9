"""The one bar of every command that measures, and what each library's news looks like on it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ropewalk.cli.common import console

if TYPE_CHECKING:
    from ropewalk.evaluation.compare import Step
    from ropewalk.search.tune import Told


class Bar:
    """What is done now, how much of it, the time it took and the time left: on stderr, gone when it is done.

    Only a terminal gets the bar, and under a launcher only the main process: a log is no place for a line that changes.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.quiet = quiet or not self.main
        self._bar: Any = None
        self._task: Any = None

    @property
    def moving(self) -> bool:
        """Whether there is a bar on a screen."""
        return self._bar is not None

    def __enter__(self) -> Bar:
        if self.quiet or not sys.stderr.isatty():
            return self
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console(err=True), transient=True)
        self._task = self._bar.add_task("loading", total=None, note="")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, done: float, total: float, note: str = "") -> None:
        """`what` is being done, `done` of `total`; a total of zero is one that is not known yet."""
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done, total=total or None, note=note)

    def say(self, line: str) -> None:
        """A line that stays: above the bar where there is one, and in a log too."""
        if not self.quiet:
            # Through the bar's own console, which moves the bar out of the line's way.
            (self._bar.console if self._bar is not None else console(err=True)).print(line, markup=False)

    def evaluated(self, done: int, total: int, what: str) -> None:
        """News of `evaluate`: tokens read, of how many."""
        self.show(what, done, total, f"{done}/{total}" if total else "")

    def compared(self, step: Step) -> None:
        """News of `compare`: a candidate is being read, or it is done and has its figures."""
        found = step.measured
        note = f"{step.number + (found is not None)}/{step.total}"
        self.show(step.name, step.number + step.share, step.total, note)
        if found is not None:
            kept = "  (kept from before)" if found.kept else ""
            self.say(f"{step.name:<24} {_tail(found)}{_found(found)}  {found.seconds:.1f} s{kept}")

    def tuned(self, told: Told) -> None:
        """News of `tune`: a step of the search; its validations stay on the screen, and a log has the run folder."""
        self.show(told.text, told.share or 0.0, 1.0)
        if self.moving and told.point is not None and told.point.kind == "validation":
            self.say(told.text)


def _tail(found: Any) -> str:
    if found.reading is None:
        return ""
    # Loaded long before by whoever measured, and the one place that says what a tail is.
    from ropewalk.evaluation.loss.reading import means, tail_start

    length = max(found.reading.losses)
    return f"loss {means(found.reading.longest, tail_start(length), length).mean():.3f}"


def _found(found: Any) -> str:
    if not found.scores:
        return ""
    longest = max(score.length for score in found.scores)
    credits = [score.credit for score in found.scores if score.length == longest]
    return f"  found {sum(credits) / len(credits):.0%}"
