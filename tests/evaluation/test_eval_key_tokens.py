"""Key tokens by a walk over tokens: which are chosen, when the set says something, and the loss on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plain_statistics as plain
import pytest

from ropewalk.evaluation.loss.key_tokens import KeyTokens, choose, key_token_loss, losses_of
from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.statistics.intervals import Interval
from ropewalk.evaluation.verdict.worth import contexts_of, fine_tuning

OWNERS = ["a", "a", "b", "c", "d"]


def losses(seed: int) -> list[np.ndarray]:
    """Whole and half nats: gains of exactly two and losses of exactly three are among them."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 10, 60) / 2 for _ in OWNERS]
    for row in rows:
        row[[0, 25]] = np.nan
    return rows


def walked(
    far: np.ndarray, near: np.ndarray, *, start: int, stop: int, gain: float, floor: float
) -> list[bool]:
    return [
        start <= place < stop and bool(near[place] - far[place] >= gain) and bool(-far[place] >= floor)
        for place in range(len(far))
    ]


@pytest.mark.parametrize(("gain", "floor"), [(2.0, -3.0), (2.5, -0.5), (0.5, 0.0)])
def test_the_set_and_its_mirror_image(gain: float, floor: float) -> None:
    far, near = losses(1), losses(2)
    stops = {50: 40}
    keys = choose(
        Reading({50: far}, stops), Reading({50: near}, stops), 50, 10, names=("x", "y"), bounds=(gain, floor),
        owners=OWNERS,
    )  # fmt: skip
    rule: dict[str, Any] = {"start": 10, "stop": 40, "gain": gain, "floor": floor}
    masks = [walked(a, b, **rule) for a, b in zip(far, near, strict=True)]
    mirror = [walked(b, a, **rule) for a, b in zip(far, near, strict=True)]
    assert [mask.tolist() for mask in keys.masks] == masks
    helped, hurt = ([sum(mask) for mask in found] for found in (masks, mirror))
    assert keys.reverses == tuple(hurt)
    said = plain.interval([a - b for a, b in zip(helped, hurt, strict=True)], OWNERS)
    assert keys.to_json() == {
        "reference": "x", "short": "y", "length": 40, "beyond": 10, "gain": gain, "floor": floor,
        "tokens": sum(helped), "share": sum(helped) / (5 * 30), "reverse": sum(hurt),
        "excess": pytest.approx(said[0]), "excess_ci": pytest.approx(said[1:3], abs=1e-5), "told": keys.told,
        "why_not": keys.why_not,
    }  # fmt: skip
    reader = losses(3)
    rows = [
        [value for value, kept in zip(row, mask, strict=True) if kept]
        for row, mask in zip(reader, masks, strict=True)
    ]
    assert [row.tolist() for row in losses_of(Reading({50: reader}, stops), keys, 50)] == rows
    found = key_token_loss(Reading({50: reader}, stops), keys, 50, OWNERS)
    assert found is not None
    owners = [owner for owner, row in zip(OWNERS, rows, strict=True) for _ in row]
    said = plain.interval([value for row in rows for value in row], owners)
    assert (found.mean, found.units) == (pytest.approx(said[0]), len(set(owners)))
    assert found.pair == pytest.approx(said[1:3], abs=1e-5)
    # One document alone, or none named: its segments are the units.
    parts = [number for number, row in enumerate(rows) for _ in row]
    said = plain.interval([value for row in rows for value in row], parts)
    for alone in (None, ["a"] * 5):
        found = key_token_loss(Reading({50: reader}, stops), keys, 50, alone)
        assert found is not None
        assert found.units == len(set(parts))
        assert found.pair == pytest.approx(said[1:3], abs=1e-5)
    two = key_token_loss(Reading({50: reader}, stops), keys, 50, ["a", "a", "b", "b", "b"])
    assert two is not None
    assert (two.units, two.pair) == (2, None)


def test_without_names_segments_are_the_units_and_the_rule_is_two_nats() -> None:
    far, near = losses(1), losses(2)
    keys = choose(Reading({50: far}, {50: 50}), Reading({50: near}, {50: 50}), 50, 10, names=("x", "y"))
    assert (keys.gain, keys.floor, keys.excess.units) == (2.0, -2.0, 5)
    rule: dict[str, Any] = {"start": 10, "stop": 50, "gain": 2.0, "floor": -2.0}
    assert [mask.tolist() for mask in keys.masks] == [
        walked(a, b, **rule) for a, b in zip(far, near, strict=True)
    ]


def made(count: int, reverse: int, excess: Interval) -> KeyTokens:
    mask = np.arange(200) < count
    return KeyTokens((mask,), 200, 100, "x", "y", 2.0, -2.0, (reverse,), excess)


@pytest.mark.parametrize(
    ("count", "reverse", "excess", "why"),
    [
        (50, 10, Interval(8.0, 0.1, 15.9, 4), ""),
        (49, 0, Interval(8.0, 0.1, 15.9, 4), "49 tokens gain 2 nats from far context, and 50 are wanted"),
        # An excess that may be nothing at all is none.
        (50, 10, Interval(8.0, 0.0, 16.0, 4), "which these documents do not tell from noise"),
        (50, 10, Interval(8.0, -0.1, 16.1, 4), "which these documents do not tell from noise"),
        (50, 50, Interval(0.0, 0.0, 0.0, 4), ": no more than noise gives"),
        (50, 60, Interval(-2.0, -3.0, -1.0, 4), ": no more than noise gives"),
        (50, 10, Interval(8.0, None, None, 2), ", in too few documents to tell from noise"),
    ],
)
def test_when_a_set_says_something(count: int, reverse: int, excess: Interval, why: str) -> None:
    keys = made(count, reverse, excess)
    assert (keys.count, keys.reverse, keys.told) == (count, reverse, not why)
    if count < 50 or not why:
        assert keys.why_not == why
    else:
        joint = "" if why[0] in ":," else ", "
        assert (
            keys.why_not
            == f"{count} tokens gain 2 nats from far context and {reverse} lose as much by it{joint}{why}"
        )


def test_an_empty_set_has_no_loss_and_nothing_beyond_the_window_no_share() -> None:
    empty = made(0, 0, Interval(0.0, None, None, 1))
    row = np.ones(200)
    assert key_token_loss(Reading({200: [row]}, {200: 200}), empty, 200) is None
    one = made(3, 0, Interval(0.0, None, None, 1))
    found = key_token_loss(Reading({200: [row]}, {200: 200}), one, 200)
    assert found is not None
    assert found.mean == 1.0
    assert one.to_json()["share"] == 3 / 100
    assert KeyTokens((), 200, 200, "x", "y", 2.0, -2.0, (), one.excess).to_json()["share"] == 0.0
    short = KeyTokens((np.ones(3, dtype=bool),), 100, 100, "x", "y", 2.0, -2.0, (0,), one.excess)
    assert short.to_json()["share"] == 0.0


def test_what_context_is_worth_says_nothing_where_its_slope_may_be_nothing() -> None:
    """A slope of exactly nothing, one of three units, and a target a doubling away."""
    level = np.array([1.0, 1.5, 2.0])
    flat = fine_tuning({64: level, 128: level}, "abc", 256, 10, None, None)
    assert flat is not None
    assert (flat.told, flat.slope, flat.slope_ci, flat.doublings) == (False, 0.0, [0.0, 0.0], 1.0)
    falling = fine_tuning({64: level + 0.5, 128: level}, "abc", 181, 10, level - 0.1, 0.5)
    assert falling is not None
    assert falling.told
    assert falling.doublings == pytest.approx(math.log2(181 / 128))
    assert falling.expected_loss == pytest.approx(1.5 - 0.5 * math.log2(181 / 128))
    assert falling.loss_gain == pytest.approx(0.5 * math.log2(181 / 128) - 0.1)
    two = fine_tuning({64: level[:2] + 0.5, 128: level[:2]}, "ab", 256, 10, level[:2], 0.5)
    assert two is not None
    assert (two.told, two.slope_ci, two.expected_ci, two.loss_gain_ci) == (False, None, None, None)
    assert (contexts_of(64), contexts_of(16), contexts_of(15)) == ([16, 32, 64], [16], [])
