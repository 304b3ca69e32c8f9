"""Intervals and tests: tables of Student's t, hand-made clusters, coverage, the correction for many looks."""

from __future__ import annotations

import math

import numpy as np
import plain_statistics as plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.evaluation.statistics.choice import holm
from ropewalk.evaluation.statistics.intervals import (
    Interval,
    mean_interval,
    paired_interval,
    paired_shares,
    ratio_interval,
    weighted_interval,
)
from ropewalk.evaluation.statistics.student import quantile, two_sided, within
from ropewalk.evaluation.verdict.ranking import (
    Criterion,
    Figures,
    Owners,
    against,
    criteria_of,
    group_of,
    mean_of,
    order,
)

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


def shuffled(seed: int) -> tuple[list[float], list[str]]:
    """Values of four to nine documents, in any order, some documents with one value and some with many."""
    rng = np.random.default_rng(seed)
    count = 4 + seed % 6
    owners = [f"d{number}" for number in [*range(count), *rng.integers(0, count, 3 * (seed % 4))]]
    rng.shuffle(owners)
    return rng.normal(rng.normal(), 1, len(owners)).tolist(), owners


def holds(found: Interval, said: plain.Said, units: int) -> None:
    assert found.units == units
    assert found.mean == pytest.approx(said[0], abs=1e-12)
    assert [found.low, found.high] == pytest.approx(said[1:3], abs=1e-6)
    assert found.p == (None if said[3] is None else pytest.approx(said[3], abs=1e-7))


@pytest.mark.parametrize("seed", range(8))
def test_every_interval_is_the_textbooks(seed: int) -> None:
    values, owners = shuffled(seed)
    units = len(set(owners))
    holds(mean_interval(values, owners), plain.interval(values, owners), units)
    holds(mean_interval(values), plain.interval(values, range(len(values))), len(values))
    other = np.random.default_rng(seed + 50).normal(size=len(values)).tolist()
    apart = [a - b for a, b in zip(values, other, strict=True)]
    holds(paired_interval(values, other, owners), plain.interval(apart, owners), units)
    under = [1 + abs(value) for value in other]
    holds(ratio_interval(values, under, owners), plain.ratio(values, under, owners), units)
    holds(ratio_interval(values, under), plain.ratio(values, under, range(len(values))), len(values))


@pytest.mark.parametrize("seed", range(12))
def test_every_interval_of_credits_is_the_wider_of_two(seed: int) -> None:
    """Some of many questions, all of a few, none, and the reverse of each."""
    rng = np.random.default_rng(seed)
    owners = [number % (3 + seed % 5) for number in range(12 + seed)]
    share = (0.0, 0.5, 1.0, 0.9)[seed % 4]
    one, two = ((rng.random(len(owners)) < chance).astype(float) for chance in (share, 0.3 * (seed % 3)))
    for first, second in ((one, two), (two, one)):
        said = plain.credits_interval((first - second).tolist(), owners)
        holds(paired_shares(first, second, owners), said, len(set(owners)))


def test_units_without_weight_do_not_count() -> None:
    found = weighted_interval([1.0, 9.0, 2.0, 4.0, 7.0], [1.0, 0.0, 2.0, 1.0, 0.0])
    assert found == weighted_interval([1.0, 2.0, 4.0], [1.0, 2.0, 1.0])
    assert (found.units, found.mean) == (3, 2.25)


def test_units_that_are_all_equal_are_surely_what_they_are() -> None:
    assert mean_interval([0.0] * 4) == Interval(0.0, 0.0, 0.0, 4, 1.0)
    assert mean_interval([2.0] * 4) == Interval(2.0, 2.0, 2.0, 4, 0.0)


def test_what_an_interval_says_of_itself() -> None:
    """No pair without both ends; a quantity that cannot be below a least has neither end there."""
    assert Interval(1.0, 0.5, 2.0, 4, 0.1).pair == [0.5, 2.0]
    for low, high in ((None, 2.0), (0.5, None), (None, None)):
        broken = Interval(1.0, low, high, 4, 0.1)
        assert broken.pair is None
        assert broken.floored() is broken
    assert Interval(1.0, -0.5, 2.0, 4, 0.1).floored() == Interval(1.0, 0.0, 2.0, 4, 0.1)
    assert Interval(-1.0, -2.0, -0.5, 4, 0.1).floored() == Interval(-1.0, 0.0, 0.0, 4, 0.1)
    assert Interval(1.0, 0.5, 2.0, 4, 0.1).floored() == Interval(1.0, 0.5, 2.0, 4, 0.1)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 11, 30])
def test_students_t_is_the_sum_of_its_density(degrees: int) -> None:
    for value in (0.0, 0.3, 1.0, 2.5, 6.0):
        assert two_sided(value, degrees) == pytest.approx(plain.beyond(value, degrees), abs=1e-6)
        assert two_sided(-value, degrees) == two_sided(value, degrees)
        assert within(value, degrees) == pytest.approx(1 - plain.beyond(value, degrees), abs=1e-6)
    assert two_sided(1e9, degrees) >= 0.0
    assert quantile(degrees) == quantile(degrees, 0.95)
    assert plain.beyond(quantile(degrees, 0.5), degrees) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="degrees=0"):
        within(1.0, 0)


def test_holm_is_that_of_a_walk() -> None:
    rng = np.random.default_rng(3)
    for count in range(1, 9):
        p_values = {f"r{number}": float(rng.choice([0.001, 0.01, 0.02, 0.3, 1.0])) for number in range(count)}
        assert holm(p_values) == pytest.approx(plain.holm(p_values))
        # A test that could not be made counts as one that found nothing at all.
        assert holm(p_values | {"none": None}) == pytest.approx(plain.holm(p_values | {"none": 1.0}))
        assert list(holm(p_values)) == list(p_values)


def figures(**parts: list[float]) -> Figures:
    return Figures(**{name: np.array(values) for name, values in parts.items()})


def test_rows_that_left_stand_by_what_they_left_on_and_by_nothing_before_it() -> None:
    """All find the same to within noise; by key tokens `a`, `b` and `c` are surely worse, two of them alike."""
    noise = np.array([0.0, 0.1, 0.0, 0.1])
    rows = {
        "c": figures(credits=[0.5, 1, 1, 1], keys=[3.0, 3, 3, 3], inside=[1.0] * 4),
        "a": figures(credits=[1, 1, 0.5, 0.5], keys=[2.0, 2, 2, 2], inside=[1.0] * 4),
        "b": figures(credits=[1, 1, 1, 1], keys=[2.0, 2, 2, 2], inside=[1.0] * 4),
        "dear": figures(credits=[1, 1, 1, 0.5], keys=(0.5 + noise).tolist(), inside=[2.0] * 4),
        "cheap": figures(credits=[1, 1, 1, 0.5], keys=(0.5 + noise[::-1]).tolist(), inside=[1.5] * 4),
    }
    owners = Owners(range(4), range(4), range(4))
    found = order(criteria_of("use", rows, owners, keys_told=True), rows)
    assert found.criteria == ["retrieval", "key-tokens"]
    assert (found.group, found.recommended) == (["cheap", "dear"], "cheap")
    # `a` was first of two equals, although `b` finds more: what they left on is all that tells them apart.
    assert found.names == ["cheap", "dear", "a", "b", "c"]


def test_criteria_are_those_that_any_row_has_figures_for() -> None:
    rows = {"a": figures(tail=[1.0, 2.0]), "b": figures(credits=[1.0], inside=[1.0])}
    owners = Owners("st", "k", "q")

    def names(rank: str, told: bool, of: dict[str, Figures] = rows) -> list[tuple[str, str, int, object]]:
        return [
            (one.name, one.part, one.sign, one.owners)
            for one in criteria_of(rank, of, owners, keys_told=told)
        ]

    found, loss = ("retrieval", "credits", 1, "q"), ("loss", "tail", -1, "st")
    assert names("use", False) == [found, loss]
    # Key tokens that nobody has are no criterion, and loss does not stand in for them.
    assert names("use", True) == [found]
    assert names("window", False) == [("window", "inside", -1, "st")]
    assert names("key-tokens", True, {"a": figures(keys=[1.0])}) == [("key-tokens", "keys", -1, "k")]
    assert names("loss", True, {"a": figures(tail=[])}) == []
    assert order([], {}).recommended is None
    assert group_of(Criterion("loss", "tail", -1, "st"), {"b": rows["b"], "c": Figures()}) == ["b", "c"]


def test_figures_of_nothing_are_last_and_have_no_mean() -> None:
    loss, found = Criterion("loss", "tail", -1, "ab"), Criterion("retrieval", "credits", 1, "ab")
    assert loss.figure(figures(tail=[1.0, 2.0])) == -1.5
    assert found.figure(figures(credits=[1.0, 0.5])) == 0.75
    assert [loss.figure(row) for row in (Figures(), figures(tail=[]))] == [-math.inf] * 2
    assert (mean_of(None), mean_of(np.array([])), mean_of(np.array([1.0, 2.0]))) == (None, None, 1.5)
    # The measure's own sign: what has more loss is above zero.
    assert loss.difference(figures(tail=[3.0, 2.0]), figures(tail=[1.0, 1.0])).mean == 1.5
    assert found.difference(figures(credits=[1.0, 0.0]), figures(credits=[1.0, 1.0])).mean == -0.5


def test_against_a_control_only_what_both_have_and_all_of_it_one_family() -> None:
    rng = np.random.default_rng(0)
    rows = {name: figures(tail=(shift + rng.normal(size=5)).tolist()) for name, shift in (("a", 1), ("b", 3))}
    rows["c"] = figures(credits=[1.0, 1, 0, 1, 1])
    control = figures(tail=[0.0] * 5, credits=[0.0] * 5)
    loss, found = Criterion("loss", "tail", -1, range(5)), Criterion("retrieval", "credits", 1, range(5))
    said = against(control, rows, [loss, found, Criterion("window", "inside", -1, range(5))])
    assert {name: list(part) for name, part in said.items()} == {"loss": ["a", "b"], "retrieval": ["c"]}
    p_values = {(name, row): pair[0].p for name, part in said.items() for row, pair in part.items()}
    family = plain.holm(p_values)
    assert {(name, row): pair[1] for name, part in said.items() for row, pair in part.items()} == family
    assert said["loss"]["b"][0] == paired_interval(rows["b"].tail, [0.0] * 5, range(5))
    assert against(figures(inside=[1.0]), rows, [loss, found]) == {}
