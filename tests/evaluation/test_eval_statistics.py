"""Intervals and tests: tables of Student's t, hand-made clusters, coverage, the correction for many looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.evaluation.statistics.choice import holm
from ropewalk.evaluation.statistics.intervals import (
    mean_interval,
    paired_interval,
    paired_shares,
    ratio_interval,
)
from ropewalk.evaluation.statistics.student import quantile, two_sided
from ropewalk.evaluation.verdict.ranking import Criterion, Figures, group_of

# Two-sided 95 % and 99 % points, from printed tables.
TABLE = {
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 7: (2.365, 3.499), 12: (2.179, 3.055),
    19: (2.093, 2.861), 20: (2.086, 2.845), 30: (2.042, 2.750), 40: (2.021, 2.704), 120: (1.980, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("degrees", TABLE)
def test_students_t_is_that_of_the_tables(degrees: int) -> None:
    for level, expected in zip((0.95, 0.99), TABLE[degrees], strict=True):
        assert quantile(degrees, level) == pytest.approx(expected, abs=6e-4)
        assert two_sided(expected, degrees) == pytest.approx(1 - level, abs=1e-4)


def test_the_interval_is_students_at_any_number_of_values() -> None:
    for count in (3, 6, 19, 20, 45):
        values = [math.sin(7 * number) for number in range(count)]
        found = mean_interval(values)
        half = quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
        assert found.mean == pytest.approx(float(np.mean(values)))
        assert found.pair == pytest.approx([found.mean - half, found.mean + half])


def test_one_or_two_units_give_no_interval() -> None:
    for values in ([2.0], [2.0, 2.5]):
        found = mean_interval(values)
        assert (found.pair, found.p, found.units) == (None, None, len(values))
    assert paired_shares([1.0, 1.0], [0.0, 0.0]).p is None
    assert ratio_interval([1.0, 1.0], [1.0, 2.0]).pair is None


def test_documents_are_the_units_not_their_segments() -> None:
    """Three documents with 2, 2 and 1 segments: a weighted mean, two degrees of freedom, by hand."""
    found = mean_interval([1.0, 1.2, 3.0, 3.2, 5.0], owners=["a", "a", "b", "b", "c"])
    weights, units = np.array([0.4, 0.4, 0.2]), np.array([1.1, 3.1, 5.0])
    assert found.mean == pytest.approx(2.68)
    error = math.sqrt(3 / 2 * float(((weights * (units - 2.68)) ** 2).sum()))
    assert found.pair == pytest.approx([2.68 - 4.303 * error, 2.68 + 4.303 * error], rel=1e-3)
    assert found.units == 3
    # One document alone speaks for itself: its segments are the units.
    assert mean_interval([1.0, 2.0, 4.0], owners=["a"] * 3).units == 3


def test_pairing_removes_what_documents_share() -> None:
    hard = [1.0, 5.0, 9.0, 2.0]
    gap = paired_interval([value + 0.1 for value in hard], hard)
    assert gap.mean == pytest.approx(0.1)
    assert gap.pair == pytest.approx([0.1, 0.1])
    assert gap.p == pytest.approx(0.0, abs=1e-12)


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    pairs = [mean_interval(rng.normal(size=6).tolist()).pair or [1, -1] for _ in range(2000)]
    assert 0.93 < sum(low <= 0 <= high for low, high in pairs) / 2000 < 0.97


def test_shares_never_have_an_interval_of_no_width() -> None:
    """All 20 questions of 4 texts right, none by the control: the adjusted Wald interval, by hand."""
    owners = [number // 5 for number in range(20)]
    found = paired_shares([1.0] * 20, [0.0] * 20, owners)
    middle = 20 / 22
    error = math.sqrt((22 / 22 - middle**2) / 22)
    assert found.mean == 1.0
    assert found.low == pytest.approx(middle - 1.96 * error, abs=1e-3)
    assert found.high == 1.0
    none = paired_shares([1.0] * 20, [1.0] * 20, owners)
    assert none.p == 1.0
    assert none.low == pytest.approx(-1.96 * math.sqrt(2 / 22) / math.sqrt(22), abs=1e-3)


def test_questions_of_one_text_count_as_one() -> None:
    """Two texts all right and two all wrong: four units, not twenty."""
    owners = [number // 5 for number in range(20)]
    found = paired_shares([1.0] * 10 + [0.0] * 10, [0.0] * 20, owners)
    half = 3.182 * math.sqrt(1 / 3) / 2
    assert found.pair == pytest.approx([0.5 - half, min(1.0, 0.5 + half)], abs=1e-3)
    assert found.units == 4


def test_a_ratio_by_linearisation() -> None:
    over, under = [1.0, 0.0, 2.0, 1.0], [1.0, 1.0, 2.0, 2.0]
    found = ratio_interval(over, under, ["a", "b", "c", "d"])
    rest = np.array(over) - 4 / 6 * np.array(under)
    half = 3.182 * math.sqrt(4 / 3 * float((rest**2).sum())) / 6
    assert found.mean == pytest.approx(4 / 6)
    assert found.pair == pytest.approx([max(0.0, 4 / 6 - half), 4 / 6 + half], abs=1e-3)


def test_a_ratio_has_its_interval_over_owners() -> None:
    """By hand: three owners with 2, 1 and 1 of 2; rests 2/3, -1/3, -1/3; error 1/6; t(2) = 4.302653."""
    found = ratio_interval([1, 1, 1, 0, 0, 1], [1] * 6, ["a", "a", "b", "b", "c", "c"])
    assert (found.mean, found.units) == (pytest.approx(2 / 3), 3)
    assert found.pair == pytest.approx([0.0, 2 / 3 + 4.302653 / 6], abs=1e-6)


def test_a_row_leaves_the_group_only_if_it_is_sure_among_all_that_were_looked_at() -> None:
    """Four documents, behind by 1 with spread 0.4558 * sqrt(4/3): t = 3.8, p = 0.032. Beside two more it is 0.096."""
    behind = 2.0 + 1.0 + 0.4558 * np.array([-1.0, -1.0, 1.0, 1.0])
    near = 2.0 + 0.01 + np.array([-1.0, 1.0, -1.0, 1.0])
    rows = {"best": Figures(tail=np.full(4, 2.0)), "behind": Figures(tail=behind)}
    loss = Criterion("loss", "tail", -1, range(4))
    assert group_of(loss, rows) == ["best"]
    more = rows | {"near": Figures(tail=near), "also": Figures(tail=near)}
    assert group_of(loss, more) == ["best", "behind", "near", "also"]


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert found == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 1.0})


def test_looking_at_many_rows_finds_nothing_where_nothing_is() -> None:
    """Seventeen rows of pure noise: uncorrected, more than half of all tables would name a winner."""
    rng = np.random.default_rng(0)
    plain = corrected = 0
    for _ in range(300):
        p_values = {str(row): mean_interval(rng.normal(size=8).tolist()).p for row in range(17)}
        plain += min(p_values.values()) <= 0.05
        corrected += min(holm(p_values).values()) <= 0.05
    assert plain > 120
    assert corrected < 30


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=40))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.low <= found.mean + 1e-12
    assert found.high >= found.mean - 1e-12
