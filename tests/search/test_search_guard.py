"""What a fit has to show before it takes its start's place: every answer, and a gain beyond its noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ropewalk.errors import RopewalkError
from ropewalk.search.guard import Guard, reason_to_keep_start
from ropewalk.search.job import Rung
from ropewalk.search.objective import Objective, Terms, gains_over, surely_fewer, weigh
from ropewalk.search.rows import Row

IDS = np.zeros(100, dtype=int)


def terms(values: list[float], **found: list[float]) -> Terms:
    return Terms(sum(values), values, None, None, None, None, None, found)


def questions(**found: list[float]) -> Terms:
    """Terms of planted rows alone, each with a loss of nothing."""
    return terms([0.0] * sum(map(len, found.values())), **found)


class Asked:
    """A reader that knows what each subject finds of the further questions, and counts who was asked."""

    def __init__(self, **answers: list[float]) -> None:
        self.answers, self.asked = answers, list[str]()

    def terms(self, subject: str, rows: Any) -> Terms:
        self.asked.append(subject)
        found = self.answers[subject]
        assert len(found) == len(rows)
        return questions(kv=found)


def guard(before: Terms | None, reader: Asked | None = None, further: int = 0) -> Guard:
    texts = [Row(IDS)] * 4
    asked = [Row(IDS, "kv", 0.1, (98, 99)), Row(IDS, "kv", 0.5, (99,))]
    rung = Rung(
        2.0,
        100,
        [],
        [],
        weigh([*texts, *asked], 64, Objective()),
        {},
        weigh([Row(IDS, "kv", 0.5, (99,))] * further, 64, Objective()),
        before=before,
    )
    start: Any = "start"
    held: Any = reader or Asked()
    return Guard.of_start(held, rung, start)


def why(held: Guard, after: Terms) -> str:
    subject: Any = "fit"
    return str(reason_to_keep_start(held, subject, after))


def test_the_start_is_kept_for_lost_answers_and_for_noise() -> None:
    before = terms([1.0, 1.0, 1.0, 1.0, 0.3, 0.3], kv=[1.0, 0.0])
    held = guard(before)
    better = terms([0.9, 0.91, 0.89, 0.9, 0.7, 0.0], kv=[1.0, 0.0])
    assert why(held, better) == "None"
    lost = terms([0.9, 0.91, 0.89, 0.9, 0.3, 0.3], kv=[0.0, 0.0])
    assert why(held, lost) == "the fit finds fewer answers (kv: 0 of 2, before 1)"
    noisy = terms([0.5, 1.4, 0.6, 1.4, 0.3, 0.3], kv=[1.0, 0.0])
    assert "standard error" in why(held, noisy)
    behind = terms([0.95, 0.95, 0.95, 0.95, 0.4, 0.4], kv=[1.0, 0.0])
    assert "0.0500 behind" in why(held, behind)
    answers = terms([1.0, 1.01, 0.99, 1.0, 0.2, 0.2], kv=[1.0, 1.0])
    assert why(held, answers) == "None"
    found = gains_over(before, better, held.validation)
    assert found["text"].value == pytest.approx(0.1)
    assert found["text"].error == pytest.approx(np.std([0.1, 0.09, 0.11, 0.1], ddof=1) / 2)
    assert found["answers"].value == pytest.approx(-0.05)
    with pytest.raises(RopewalkError, match="not measured"):
        why(guard(None), better)


@pytest.mark.parametrize(
    ("before", "after", "fewer"),
    [
        # One of three that differ: 1 and 3 ** 0.5; one that differs: 1 and 1.
        ({"kv": [1, 1, 0]}, {"kv": [0, 0, 1]}, False),
        ({"kv": [1, 1, 1]}, {"kv": [0, 1, 1]}, False),
        ({"kv": [1, 1, 1]}, {"kv": [0, 0, 1]}, True),
        ({"kv": [0, 0, 1]}, {"kv": [1, 1, 1]}, False),
        # 3 of 7 that differ: 2.65 ** 2 is 7.
        ({"kv": [1, 1, 1, 1, 1, 0, 0]}, {"kv": [0, 0, 0, 0, 0, 1, 1]}, True),
        # 2 of 6 that differ.
        ({"kv": [1, 1, 1, 1, 0, 0]}, {"kv": [0, 0, 0, 0, 1, 1]}, False),
        # None in a task of its own, two of two together; and two of one task, though as many were won of the other.
        ({"kv": [1, 1], "needle": [1]}, {"kv": [0, 1], "needle": [0]}, True),
        ({"kv": [1, 1], "needle": [0, 0]}, {"kv": [0, 0], "needle": [1, 1]}, True),
        ({}, {}, False),
    ],
)
def test_answers_are_surely_fewer_beyond_their_noise(
    before: dict[str, list[float]], after: dict[str, list[float]], fewer: bool
) -> None:
    assert surely_fewer(questions(**before), questions(**after)) is fewer


def test_where_one_answer_is_lost_further_questions_decide() -> None:
    before = terms([1.0, 1.0, 1.0, 1.0, 0.3, 0.3], kv=[1.0, 1.0])
    lost_one = terms([0.9, 0.91, 0.89, 0.9, 0.3, 0.3], kv=[1.0, 0.0])

    reader = Asked(start=[1.0, 0.0, 0.0], fit=[1.0, 1.0, 0.0])
    held = guard(before, reader, 3)
    assert why(held, lost_one) == "None"
    assert why(held, lost_one) == "None"
    # The start was asked once.
    assert sorted(reader.asked) == ["fit", "fit", "start"]

    reader = Asked(start=[1.0, 1.0, 0.0], fit=[1.0, 1.0, 0.0])
    said = "the fit finds fewer answers (kv: 3 of 5, before 4)"
    assert why(guard(before, reader, 3), lost_one) == said

    # Nobody is asked where it is clear: answers kept, or surely lost.
    reader = Asked()
    kept, lost_both = (terms(lost_one.by_row, kv=hits) for hits in ([1.0, 1.0], [0.0, 0.0]))
    assert why(guard(before, reader, 3), kept) == "None"
    assert "kv: 0 of 2, before 2" in why(guard(before, reader, 3), lost_both)
    assert not reader.asked


def test_no_task_is_traded_for_another() -> None:
    held = guard(terms([1.0] * 4, kv=[1.0, 1.0], needle=[0.0, 0.0]))
    traded = terms([0.9, 0.91, 0.89, 0.9], kv=[0.0, 0.0], needle=[1.0, 1.0])
    assert held.lost(Any, traded) == "kv: 0 of 2, before 2"
    swapped = terms([0.9, 0.91, 0.89, 0.9], kv=[0.0, 1.0], needle=[1.0, 0.0])
    assert held.lost(Any, swapped) is None
