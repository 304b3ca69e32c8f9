"""The loop of a fit with every measurement told beforehand: what becomes the best, and when it stops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ropewalk
from ropewalk.evaluation.work.processes import Processes
from ropewalk.geometry import RopeGeometry
from ropewalk.search import loop
from ropewalk.search.budget import Budget
from ropewalk.search.family import Family
from ropewalk.search.fit import Settings, State
from ropewalk.search.job import Rung
from ropewalk.search.objective import Terms
from ropewalk.search.reading import Slope

GEOMETRY = RopeGeometry(16, 10000.0, 64)


def terms(value: float) -> Terms:
    return Terms(value, [value], None, None, None, None, None, {})


class Told:
    """A guard that answers from a list, and remembers what it was made with and asked."""

    made: list[Any]
    asked: list[tuple[float, float]]
    lost_at: dict[float, str]
    rung: Rung

    @classmethod
    def of_start(cls, reader: Any, rung: Rung, start: Any) -> Told:
        self = cls()
        self.rung = rung
        self.made.append((rung.factor, start.to_json()))
        return self

    def lost(self, candidate: Any, after: Terms) -> str | None:
        assert candidate.factor == self.rung.factor
        self.asked.append((self.rung.factor, after.value))
        return self.lost_at.get(after.value)


def run(
    monkeypatch: pytest.MonkeyPatch,
    measured: list[float],
    factors: tuple[float, ...] = (4.0,),
    lost_at: dict[float, str] | None = None,
) -> tuple[loop.Progress, type[Told], Family]:
    """Six steps, a validation after each; one number of `measured` a rung and validation."""
    told = type("told", (Told,), {"made": [], "asked": [], "lost_at": lost_at or {}})
    values = iter(measured)
    count = GEOMETRY.num_rotating
    slope = Slope(1.0, np.zeros(count), np.full(count, 0.1), 0.0, 0.0)
    monkeypatch.setattr(loop, "Guard", told)
    monkeypatch.setattr(loop, "measure", lambda *given: terms(next(values)))
    monkeypatch.setattr(loop, "step_slope", lambda *given: ([slope, slope], 4))
    rungs = [Rung(factor, int(64 * factor), [], [], [], {}, []) for factor in factors]
    reader = SimpleNamespace(tokens=0.0, processes=Processes())
    job: Any = SimpleNamespace(reader=reader, rungs=rungs, top=rungs[-1])
    start = Family.through([ropewalk.schedule("yarn", GEOMETRY, factor=factor) for factor in factors])
    progress = loop.Progress(State.at(start), start, 2.0)
    monkeypatch.setattr(Rung, "step_rows", lambda *given: ([], []))
    done = loop.run_fit(
        job, start, progress, Budget(steps=6), Settings(), lambda point: None, lambda kept: None
    )
    return done, told, start


def test_the_lowest_that_loses_nothing_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    done, told, start = run(monkeypatch, [1.9, 1.8, 1.95, 1.7, 1.75, 1.85], lost_at={1.7: "kv: 1 of 4"})
    validations = [point for point in done.curve if point["kind"] == "validation"]
    assert [point["best"] for point in validations] == [True, True, False, False, True, False]
    assert [point["lost_answers"] for point in validations] == [None, None, None, "kv: 1 of 4", None, None]
    assert (done.best_value, done.best_step, done.bad) == (1.75, 5, 1)
    # Back to the best three times, each at half the rate.
    assert done.state.rate == 1 / 8
    # Whether answers are kept is asked of what is lower alone, and held against the start.
    assert told.asked == [(4.0, 1.9), (4.0, 1.8), (4.0, 1.7), (4.0, 1.75)]
    assert told.made == [(4.0, start.reading(4.0).to_json())]
    assert done.stopped == loop.USED_UP


def test_three_in_a_row_that_are_no_better_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done, *_ = run(monkeypatch, [1.9, 2.5, 1.9, 2.1])
    assert (done.best_value, done.best_step, done.state.step, done.bad) == (1.9, 1, 4, 3)
    assert "3 times in a row" in str(done.stopped)


def test_a_ladder_is_its_rungs_mean_and_every_rung_keeps_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Means of 1.9, 1.7 (a rung loses) and 1.8.
    values = [1.8, 2.0, 1.5, 1.9, 1.75, 1.85, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    done, told, start = run(monkeypatch, values, (2.0, 4.0), {1.9: "needle: 3 of 6"})
    assert (done.best_value, done.best_step) == (pytest.approx(1.8), 3)
    assert told.asked == [(2.0, 1.8), (4.0, 2.0), (2.0, 1.5), (4.0, 1.9), (2.0, 1.75), (4.0, 1.85)]
    assert told.made == [(factor, start.reading(factor).to_json()) for factor in (2.0, 4.0)]
    [second] = [point for point in done.curve if point["kind"] == "validation" and point["step"] == 2]
    assert second["lost_answers"] == "needle: 3 of 6"
