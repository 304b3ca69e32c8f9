"""Profiles: monotone, the identity at factor 1, through their starts; Adam's step by hand; budgets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.search.budget import Budget, parse_budget
from ropewalk.search.family import HIGHEST, Family, band_profile, monotone
from ropewalk.search.fit import FLOOR, HALF_RATE, Settings, State, advance, agree, flat_of
from ropewalk.search.reading import Slope

GEOMETRY = ropewalk.RopeGeometry(head_dim=16, rope_theta=10000.0, original_length=512)


def yarns(*factors: float) -> list:
    return [ropewalk.schedule("yarn", GEOMETRY, factor=factor) for factor in factors]


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=24))
def test_monotone_is_the_nearest_non_decreasing_sequence(values: list[float]) -> None:
    found = monotone(np.array(values))
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert (found <= HIGHEST).all()
    # Isotonic least squares by its min-max formula.
    clipped = np.array(values)
    count = len(values)
    plain = [
        max(min(clipped[first : last + 1].mean() for last in range(at, count)) for first in range(at + 1))
        for at in range(count)
    ]
    np.testing.assert_allclose(found, np.clip(plain, 0, HIGHEST), atol=1e-9)


def test_at_factor_one_the_family_is_the_model_itself() -> None:
    family = Family.through(yarns(2, 8)).moved(np.linspace(0.1, 1, 8), np.linspace(0.3, 1.2, 8), 0.3, 0.2)
    made = family.schedule(1.0)
    assert made.is_identity
    assert made.inv_freq.tolist() == GEOMETRY.inv_freq.tolist()
    assert made.attention_factor == 1.0


def test_a_family_passes_through_its_lowest_and_highest_start() -> None:
    first, last = yarns(2, 8)
    family = Family.through([first, last])
    for made in (first, last):
        mine = family.schedule(made.factor)
        np.testing.assert_allclose(mine.inv_freq, made.inv_freq, rtol=1e-12)
        assert mine.attention_factor == pytest.approx(made.attention_factor, abs=1e-12)


@pytest.mark.parametrize("factor", [1.5, 2, 3, 5, 8])
def test_every_factor_of_a_family_has_a_monotone_profile_between_its_ends(factor: float) -> None:
    family = Family.through(yarns(2, 8))
    profile = family.schedule(factor).profile
    assert (np.diff(profile) >= -1e-12).all()
    share = math.log(factor) / math.log(8)
    np.testing.assert_allclose(profile, (1 - share) * family.low + share * family.top, atol=1e-9)


def test_a_family_comes_back_from_json() -> None:
    family = Family.through(yarns(2, 8))
    again = Family.from_json(GEOMETRY, family.to_json())
    assert flat_of(again).tolist() == flat_of(family).tolist()


def test_band_profile_by_hand() -> None:
    # r_i = 512 / (2 pi 10 ** (i/2)): 81.5, 25.8, 8.15, 2.58, 0.815, ...
    found = band_profile(GEOMETRY, 32.0, 1.0, power=2.0, plateau=0.9)
    turns = 512 / (2 * math.pi) / 10 ** (np.arange(8) / 2)
    plain = [0.9 * min(1.0, max(0.0, math.log(32 / turn) / math.log(32))) ** 2 for turn in turns]
    np.testing.assert_allclose(found, plain, atol=1e-12)
    assert found[0] == 0
    assert found[-1] == 0.9


def test_first_step_of_the_fit_by_hand() -> None:
    start = Family.through(yarns(8))
    gradient = np.linspace(0.5, -0.5, 8)
    settings = Settings(temper=0.0)
    slope = Slope(1.0, np.zeros(8), gradient, 0.0, 0.2)
    after = advance(State.at(start), start, slope, 0.0, settings)
    scaled = gradient / (np.abs(gradient) + FLOOR)
    padded = np.concatenate([scaled[:1], scaled, scaled[-1:]])
    shared = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    rate = settings.learning_rate / (1 + GEOMETRY.rotations / HALF_RATE)
    np.testing.assert_allclose(after.family.top, monotone(start.top - rate * shared), atol=1e-9)
    assert after.family.heat == pytest.approx(start.heat - settings.heat_rate * 0.2 / (0.2 + FLOOR), abs=1e-9)
    assert after.step == 1
    assert State.from_json(start, after.to_json()).to_json() == after.to_json()


def test_the_pull_towards_the_start_acts_where_no_gradient_does() -> None:
    start = Family.through(yarns(8))
    away = start.moved(start.low, start.top + 0.2, start.cool, start.heat)
    state = State(away, away, 5, np.zeros(18), np.zeros(18))
    nothing = Slope(0.0, np.zeros(8), np.zeros(8), 0.0, 0.0)
    after = advance(state, start, nothing, 0.0, Settings(temper=0.1))
    assert (after.family.top < away.top).all()
    assert (after.family.top > start.top).all()


def test_gradients_agree_when_their_halves_point_the_same_way() -> None:
    def slope(values: list[float]) -> Slope:
        return Slope(0.0, np.zeros(2), np.array(values), 0.0, 0.0)

    assert agree([slope([1.0, 2.0]), slope([1.0, 2.0])])
    assert not agree([slope([1.0, 2.0]), slope([-1.0, -2.0])])
    assert not agree([slope([1.0, 2.0])])


def test_budgets() -> None:
    assert parse_budget("200steps") == Budget(steps=200)
    assert parse_budget(12) == Budget(steps=12)
    assert parse_budget("10m").seconds == 600
    assert parse_budget("90s").seconds == 90
    assert Budget(steps=40).share(10, 1e9) == 0.25
    assert Budget(seconds=60).share(10, 30) == 0.5
    for wrong in ("0steps", "soon", "-3", "5 parsecs"):
        with pytest.raises(UsageError):
            parse_budget(wrong)
