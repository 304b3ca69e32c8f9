"""The bar of the commands that measure: what it says to a terminal, to a log, with -q and beside other processes."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace as Some

import numpy as np
import pytest

from ropewalk.cli.progress import Bar
from ropewalk.evaluation.compare import Step
from ropewalk.search.tune import Told


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def told(monkeypatch):
    """stderr as it is asked for; COLUMNS keeps rich from cutting lines."""

    def begin(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return begin


# The last quarter of eight losses is 3 and 5; the questions of the longest length alone count.
MEASURED = Some(
    reading=Some(longest=[np.array([9.0, 9, 9, 9, 9, 9, 3, 5])], losses={4: None, 8: None}),
    scores=[Some(length=4, credit=1.0), Some(length=8, credit=1.0), Some(length=8, credit=0.5)],
    seconds=2.25,
    kept=True,
)
LINE = f"{'yarn':<24} loss 4.000  found 75%  2.2 s  (kept from before)\n"


def test_a_log_gets_a_line_for_a_finished_candidate_and_nothing_that_moves(told):
    stream = told(io.StringIO())
    with Bar() as bar:
        assert not bar.moving
        bar.evaluated(3, 8, "loss")
        bar.compared(Step("yarn", 0, 4, 0.5))
        bar.compared(Step("yarn", 0, 4, 1.0, MEASURED))
        bar.tuned(Told("fit", "step 3", 0.5, Some(kind="validation")))
    assert stream.getvalue() == LINE


def test_a_terminal_gets_the_bar_and_lines_above_it(told):
    stream = told(Terminal())
    with Bar() as bar:
        assert bar.moving
        bar.evaluated(3, 8, "reading")
        bar._bar.refresh()
        bar.compared(Step("yarn", 1, 4, 0.5))
        bar._bar.refresh()
        bar.tuned(Told("fit", "step 3: J 1.5", 0.5, Some(kind="step")))
        bar.tuned(Told("fit", "validation: J 1.25", 0.5, Some(kind="validation")))
    said = stream.getvalue()
    assert all(part in said for part in ("reading", "3/8", "1/4"))
    assert "validation: J 1.25\n" in said.replace("\x1b[2K", "")
    assert "step 3: J 1.5\n" not in said


@pytest.mark.parametrize(("quiet", "rank"), [(True, "0"), (False, "1")])
def test_quiet_and_other_processes_say_nothing(told, monkeypatch, quiet, rank):
    monkeypatch.setenv("RANK", rank)
    stream = told(Terminal())
    with Bar(quiet=quiet) as bar:
        bar.compared(Step("yarn", 0, 4, 1.0, MEASURED))
    assert stream.getvalue() == ""
    assert bar.main is (rank == "0")
