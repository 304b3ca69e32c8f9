"""Profiles: monotone, the identity at factor 1, through their starts; Adam's step by hand; budgets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.methods.walk import band_profile
from ropewalk.search.budget import Budget, parse_budget
from ropewalk.search.family import HIGHEST, Family, monotone
from ropewalk.search.fit import FLOOR, HALF_RATE, Settings, State, advance, agree, flat_of, shrinkage
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
    gradients = [np.linspace(0.5, -0.4, 8), np.linspace(0.45, -0.1, 8), np.linspace(0.55, 0.3, 8)]
    settings = Settings(temper=0.0)
    slopes = [Slope(1.0, np.zeros(8), values, 0.0, 0.2) for values in gradients]
    after = advance(State.at(start), start, slopes, 0.0, settings)
    # Running means with decays 0.92 and 0.97, unbiased: weights of the three gradients, oldest first.
    ones, twos = 0.92 ** np.array([2, 1, 0]), 0.97 ** np.array([2, 1, 0])
    table = np.stack(gradients)
    mean = (ones[:, None] * table).sum(0) / ones.sum()
    square = (twos[:, None] * table**2).sum(0) / twos.sum()
    # The variance of that mean, were the gradients independent noise of that square.
    noise = (ones**2).sum() / ones.sum() ** 2 * square
    scaled = np.maximum(0, 1 - noise / mean**2) * mean / (np.sqrt(square) + FLOOR)
    padded = np.concatenate([scaled[:1], scaled, scaled[-1:]])
    shared = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    rate = settings.learning_rate / (1 + (GEOMETRY.rotations / HALF_RATE) ** 2)
    np.testing.assert_allclose(after.family.top, monotone(start.top - rate * shared), atol=1e-9)
    assert np.abs(after.family.top - start.top).max() > 1e-3
    steady = 1 - (ones**2).sum() / ones.sum() ** 2
    heat = start.heat - settings.heat_rate * steady * 0.2 / (0.2 + FLOOR)
    assert after.family.heat == pytest.approx(heat, abs=1e-9)
    assert (after.step, after.seen) == (1, 3)
    assert State.from_json(start, after.to_json()).to_json() == after.to_json()


def test_one_gradient_alone_moves_nothing_and_noise_hardly() -> None:
    assert shrinkage(np.array([0.5]), np.array([0.25]), 1).tolist() == [0.0]
    rng = np.random.default_rng(0)
    start = Family.through(yarns(8))
    noise = [Slope(0.0, np.zeros(8), rng.normal(size=8), 0.0, 0.0) for _ in range(60)]
    steady = [Slope(0.0, np.zeros(8), -np.ones(8) + 0.5 * rng.normal(size=8), 0.0, 0.0) for _ in range(60)]
    moved = []
    for slopes in (noise, steady):
        after = advance(State.at(start), start, slopes, 0.0, Settings(temper=0.0))
        moved.append(float(np.abs(after.family.top - start.top).sum()))
    assert moved[0] < 0.2 * moved[1]


def test_the_pull_towards_the_start_acts_where_no_gradient_does() -> None:
    start = Family.through(yarns(8))
    away = start.moved(start.low, start.top + 0.2, start.cool, start.heat)
    state = State(away, away, 5, first=np.zeros(18), second=np.zeros(18))
    nothing = [Slope(0.0, np.zeros(8), np.zeros(8), 0.0, 0.0)] * 3
    # As the settings are: a pull that went past the start would set numbers swinging that no gradient holds.
    after = advance(state, start, nothing, 0.0, Settings())
    assert (after.family.top < away.top).all()
    assert (after.family.top > start.top).all()


def test_going_back_halves_the_rate() -> None:
    start = Family.through(yarns(8))
    state = State.at(start.moved(start.low, start.top + 0.2, 0.0, 0.0)).back_to(start)
    assert (state.family, state.mean, state.rate) == (start, start, 0.5)
    slopes = [Slope(0.0, np.zeros(8), -np.ones(8), 0.0, 0.0)] * 3
    whole = advance(State.at(start), start, slopes, 0.0, Settings(temper=0.0))
    half = advance(state, start, slopes, 0.0, Settings(temper=0.0))
    assert half.family.top[-1] - start.top[-1] == pytest.approx((whole.family.top[-1] - start.top[-1]) / 2)


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
    for wrong in ("0steps", "soon", "-3", "5 parsecs", "0.5steps", "1.5steps", "9" * 400):
        with pytest.raises(UsageError):
            parse_budget(wrong)
