"""Candidates, intervals, ranks and words of `compare`: arithmetic only."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.analysis import effective_factor
from ropewalk.cli.compare import extend_words
from ropewalk.cli.compare_view import bars
from ropewalk.errors import UsageError
from ropewalk.evaluation.compare.candidates import CROPPED, UNMODIFIED, Candidate, choose, merged
from ropewalk.evaluation.compare.measure import Scores, cut_windows
from ropewalk.evaluation.compare.verdict import judge, mean_interval, paired, ranked, row_of
from ropewalk.geometry import RopeGeometry
from ropewalk.hemp.tokenizer import build_tokenizer
from ropewalk.methods import methods, schedule
from ropewalk.text.corpus import Document

SMALL = RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=512)
LARGE = RopeGeometry(head_dim=128, rope_theta=10000.0, original_length=4096)


def scores(at_target: list[float], inside: float = 2.0, credit: tuple[float, ...] = ()) -> Scores:
    credits = (
        {("needle", 4096, 0.5): list(credit), ("needle", 512, 0.5): [1.0] * len(credit)} if credit else {}
    )
    return Scores(
        {512: [2.0] * len(at_target), 4096: at_target},
        [inside] * len(at_target),
        [2.4, 2.2, 2.0],
        [],
        credits,
    )


def verdict_of(measured: dict[str, Scores]):
    made = {name: schedule("linear", SMALL, factor=8.0) for name in measured}
    rows = {n: row_of(Candidate(n, "default", made[n]), measured[n], 512, 4096, 1.0) for n in measured}
    controls = {name: rows.pop(name) for name in (UNMODIFIED, CROPPED)}
    order = ranked(list(rows.values()), measured, 4096)
    return order, judge(order, controls, measured, 512, 4096)


def test_every_untrained_method_is_a_candidate_once() -> None:
    found, left_out = choose("all", SMALL, 8.0)
    labels = {label for item in found for label in (item.name, *item.same_as)}
    expected = {name for name, method in methods().items() if not method.needs_training and name != "none"}
    assert expected <= labels
    assert {item.name for item in left_out} == {
        name for name, method in methods().items() if method.needs_training
    }
    for one, other in itertools.combinations(found, 2):
        same = np.allclose(one.schedule.inv_freq, other.schedule.inv_freq, rtol=1e-9, atol=0)
        assert not (same and math.isclose(one.schedule.attention_factor, other.schedule.attention_factor))


@pytest.mark.parametrize("geometry", [SMALL, LARGE])
def test_reaching_variants_reach(geometry: RopeGeometry) -> None:
    found, _ = choose("all", geometry, 8.0)
    reaching = [item for item in found if item.variant == "reaching"]
    assert reaching
    for item in reaching:
        assert effective_factor(item.schedule) >= 8.0 * (1 - 1e-6)
        assert item.schedule.factor > 8.0


def test_betas_follow_small_windows_only() -> None:
    small = {item.variant for item in choose(["yarn"], SMALL, 8.0)[0]}
    assert small == {"default", "fitted betas"}
    assert len({item.slug for item in choose("all", SMALL, 8.0)[0]}) == len(choose("all", SMALL, 8.0)[0])


def test_training_methods_run_when_named() -> None:
    found, left_out = choose(["drope"], SMALL, 8.0)
    assert [item.name for item in found] == ["drope"]
    assert found[0].needs_training
    assert left_out == []


@pytest.mark.parametrize("wanted", [["none"], [], ["yarm"]])
def test_nothing_to_compare_is_refused(wanted: list[str]) -> None:
    with pytest.raises(UsageError):
        choose(wanted, SMALL, 8.0)


def test_equal_schedules_are_merged() -> None:
    made = [
        Candidate(name, "default", schedule(name, SMALL, factor=8.0)) for name in ("ntk", "abf", "linear")
    ]
    assert [(item.name, item.same_as) for item in merged(made)] == [("ntk", ("abf",)), ("linear", ())]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40))
def test_interval_holds_the_mean_and_shrinks_to_it(values: list[float]) -> None:
    mean, low, high = mean_interval(values)
    assert low <= mean <= high
    assert mean == pytest.approx(float(np.mean(values)), abs=1e-9)
    if max(values) == min(values):
        assert high - low == pytest.approx(0.0, abs=1e-9)


def test_interval_is_students() -> None:
    values = [1.0, 1.5, 0.7, 2.2, 1.9, 1.1]
    mean, low, high = mean_interval(values)
    half = 2.5706 * float(np.std(values, ddof=1)) / math.sqrt(6)
    assert high - mean == pytest.approx(half, rel=1e-3)
    assert mean - low == pytest.approx(half, rel=1e-3)


def test_pairing_removes_what_windows_share() -> None:
    hard = [1.0, 5.0, 9.0, 2.0]
    gap = paired([value + 0.1 for value in hard], hard)
    assert gap.difference == pytest.approx(0.1)
    assert gap.high - gap.low < 1e-9
    assert gap.above
    assert not gap.below


def test_verdict_names_the_winner_and_says_that_it_beats_cropping() -> None:
    order, verdict = verdict_of(
        {
            UNMODIFIED: scores([5.0, 5.1, 5.2], credit=(0.0, 0.0, 0.0, 0.0)),
            CROPPED: scores([2.0, 2.1, 2.2], credit=(0.0, 0.0, 0.0, 0.0)),
            "good": scores([1.8, 1.9, 2.0], inside=2.05, credit=(0.0, 1.0, 0.0, 0.0)),
            "finder": scores([2.5, 2.6, 2.7], credit=(1.0, 1.0, 1.0, 0.0)),
        }
    )
    assert [row.name for row in order] == ["good", "finder"]
    assert (verdict.text, verdict.retrieval) == ("good", "finder")
    assert verdict.beats_cropping
    assert verdict.text_beats_cropping == ["good"]
    assert "It beats cropping" in verdict.summary
    assert "+0.050 nats" in verdict.summary
    assert verdict.fine_tuning.slope == pytest.approx(0.2)
    assert verdict.fine_tuning.expected_loss == pytest.approx(2.1 - 0.2 * 3)
    assert verdict.fine_tuning.retrieval_gain == pytest.approx(0.25)


def test_verdict_says_when_cropping_wins_and_nothing_is_found() -> None:
    nothing = (0.0, 0.0, 0.0)
    _, verdict = verdict_of(
        {
            UNMODIFIED: scores([5.0, 5.1, 5.2], credit=nothing),
            CROPPED: scores([2.0, 2.1, 2.2], credit=nothing),
            "only": scores([2.3, 2.4, 2.5], credit=nothing),
        }
    )
    assert not verdict.beats_cropping
    assert verdict.retrieval is None
    assert "No method beats cropping" in verdict.summary
    assert "no method finds anything" in verdict.summary


def test_a_draw_is_called_a_draw() -> None:
    _, verdict = verdict_of(
        {
            UNMODIFIED: scores([5.0, 5.1, 5.2]),
            CROPPED: scores([2.0, 2.1, 2.2]),
            "only": scores([2.1, 2.0, 2.25]),
        }
    )
    assert not verdict.beats_cropping
    assert "it is a draw" in verdict.summary


def test_windows_do_not_overlap_and_are_exact() -> None:
    tokenizer = build_tokenizer()
    documents = [Document("a", "a" * 250 + "b" * 250), Document("b", "c" * 130), Document("short", "d" * 20)]
    cut = cut_windows(tokenizer, documents, 100, 10, 0)
    assert all(len(row) == 100 for row in cut.rows)
    assert sorted(cut.documents) == ["a"] * 5 + ["b"]
    assert sum(row.count(ord("a")) for row in cut.rows) == 250
    assert not cut.joined
    joined = cut_windows(tokenizer, documents, 600, 4, 0)
    assert joined.joined
    assert len(joined.rows) == 1


def test_the_next_command_repeats_the_schedule() -> None:
    found = {item.name: item for item in choose(["ntk", "yarn"], SMALL, 8.0)[0]}
    measured = scores([2.0, 2.1])
    row = row_of(found["yarn, fitted betas"], measured, 512, 4096, 0.0)
    assert "-p" in (words := extend_words("hemp", row, 4096, "OUT"))
    assert f"beta_fast={row.parameters['beta_fast']}" in words
    row = row_of(found["ntk, reaching"], measured, 512, 4096, 0.0)
    words = extend_words("hemp", row, 4096, "OUT")
    assert float(words[words.index("--factor") + 1]) == pytest.approx(row.factor, rel=1e-6)


def test_bars() -> None:
    assert bars([0.0, 0.5, 1.0], 0.0, 1.0) == ["▁▄█"]
    assert bars([0.0, 1.0], 0.0, 1.0, height=2) == [" █", "▁█"]
    assert bars([1.0, 1.0], 1.0, 1.0) == ["▁▁"]
