"""Which of a search's finalists takes the start's place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import ropewalk
from ropewalk.geometry import RopeGeometry
from ropewalk.search.family import Family
from ropewalk.search.fit import State
from ropewalk.search.job import Rung
from ropewalk.search.loop import Progress
from ropewalk.search.objective import Objective, Terms, weigh
from ropewalk.search.opponents import choose_finalist
from ropewalk.search.rows import Row

GEOMETRY = RopeGeometry(16, 10000.0, 64)
QUESTIONS = weigh([Row(np.zeros(100, dtype=int), "kv", 0.5, (99,))] * 3, 64, Objective())


def terms(value: float, *hits: float) -> Terms:
    return Terms(value, [value] * 3, None, None, None, None, None, {"kv": list(hits)})


def test_the_lowest_finalist_that_keeps_the_starts_answers_is_chosen() -> None:
    start = ropewalk.schedule("yarn", GEOMETRY, factor=4.0)
    names = ("walk", "mrrope-pro", "ntk", "linear")
    made = {name: ropewalk.schedule(name, GEOMETRY, factor=4.0) for name in names}
    on_validation = {
        "walk": terms(0.9, 1, 1, 0),
        "mrrope-pro": terms(0.5, 0, 0, 0),
        "ntk": terms(0.6, 1, 0, 0),
        "linear": terms(1.1, 1, 1, 0),
    }
    # Of further questions the start finds two, ntk one.
    on_further = {"yarn": terms(0.0, 1, 1, 0), "ntk": terms(0.0, 1, 0, 0)}
    asked: list[str] = []

    def measured(schedule: Any, rows: Any) -> Terms:
        asked.append(schedule.method)
        return (on_validation if rows is rung.validation else on_further)[schedule.method]

    rung = Rung(4.0, 256, [], [], QUESTIONS, {}, [*QUESTIONS], start, "yarn", terms(1.0, 1, 1, 0))
    job: Any = SimpleNamespace(top=rung, reader=SimpleNamespace(tokens=0.0, terms=measured))
    progress = Progress(State.at(Family.through([start])), Family.through([start]), 1.0)
    choose_finalist(job, progress, [made[name] for name in names], lambda point: None)
    assert asked == ["walk", "mrrope-pro", "ntk", "yarn", "ntk", "linear"]
    assert [point["best"] for point in progress.curve] == [True, False, False, False]
    assert progress.best_value == 0.9
    np.testing.assert_allclose(progress.best.reading(4.0).inv_freq, made["walk"].inv_freq)
