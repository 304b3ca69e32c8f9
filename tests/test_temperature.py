from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk import temperature
from ropewalk.errors import UsageError


@given(st.floats(1.0, 1024.0))
def test_constant_is_yarns(factor):
    assert temperature.constant(factor) == pytest.approx(0.1 * math.log(factor) + 1)
    assert temperature.constant(factor, value=1.5) == 1.5


def test_log_n_is_one_inside_the_window_and_grows_beyond_it():
    values = temperature.log_n(np.arange(4096), 512)
    assert (values[:512] == 1.0).all()
    assert (np.diff(values[512:]) > 0).all()
    assert values[4095] == pytest.approx(math.log(4096) / math.log(512))


def test_step_log_is_llama_4s():
    positions = np.array([0, 8190, 8191, 16383, 32767])
    expected = [1.0, 1.0, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(3), 1 + 0.1 * math.log(5)]
    assert temperature.step_log(positions) == pytest.approx(expected)


def test_entropy_matched_takes_back_what_more_keys_add():
    """With Gaussian logits of deviation sigma over n keys the entropy is ln n - sigma**2/2: s times the keys under
    kappa-times the logits have the entropy that the shorter window had."""
    rng = np.random.default_rng(0)
    sigma, factor, keys = 1.0, 8.0, 4096
    kappa = float(temperature.entropy_matched(factor, [sigma])[0])
    assert kappa == pytest.approx(math.sqrt(1 + 2 * math.log(8)))

    def entropy(scale: float, count: int) -> float:
        logits = rng.standard_normal((64, count)) * sigma * scale
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return float(-(weights * np.log(weights)).sum(axis=1).mean())

    before, plain, matched = entropy(1.0, keys), entropy(1.0, 8 * keys), entropy(kappa, 8 * keys)
    assert plain - before == pytest.approx(math.log(8), abs=0.05)
    assert matched == pytest.approx(before, abs=0.15)


def test_scale_invariant_starts_as_plain_attention():
    affine = temperature.scale_invariant(np.array([0.0, 10.0, 1e5]))
    assert affine.scale[0] == 1.0
    assert affine.shift[0] == 0.0
    assert affine.scale**2 + affine.shift == pytest.approx(np.ones(3))


def test_divisors():
    assert temperature.divisor(128) == pytest.approx(math.sqrt(128))
    assert temperature.divisor(128, power=1.0) == 128


@pytest.mark.parametrize(
    "call",
    [
        lambda: temperature.constant(0.5),
        lambda: temperature.constant(2, value=0),
        lambda: temperature.log_n([-1], 512),
        lambda: temperature.log_n([1], 1),
        lambda: temperature.step_log([1], period=0),
        lambda: temperature.entropy_matched(8, [0.0]),
        lambda: temperature.entropy_matched(8, [float("nan")]),
        lambda: temperature.scale_invariant([1], tau=-1),
        lambda: temperature.divisor(0),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(UsageError):
        call()


def test_closed_forms_by_hand():
    assert temperature.log_n([2, 3, 7], 2) == pytest.approx([math.log2(3), 2.0, 3.0])
    # At t = tau the logarithm is ln 2: a**2 = 2 (ln 2 + 1/2).
    affine = temperature.scale_invariant([10.0, 0.0])
    assert affine.scale == pytest.approx([math.sqrt(2 * math.log(2) + 1), 1.0])
    assert affine.shift == pytest.approx([-2 * math.log(2), 0.0])
    assert temperature.scale_invariant([3.0], tau=3.0).scale == pytest.approx(
        [math.sqrt(2 * math.log(2) + 1)]
    )
    assert temperature.step_log([15], period=4, coefficient=0.5) == pytest.approx([1 + 0.5 * math.log(5)])
    assert temperature.step_log([14], period=4, coefficient=0.5) == pytest.approx([1 + 0.5 * math.log(4)])
    assert temperature.entropy_matched(8, [0.5, 2.0]) == pytest.approx(
        [math.sqrt(1 + 8 * math.log(8)), math.sqrt(1 + 0.5 * math.log(8))]
    )
    assert temperature.entropy_matched(1, [0.5]) == pytest.approx([1.0])
    assert temperature.constant(8) == pytest.approx(1 + 0.1 * math.log(8))
    assert temperature.constant(1) == 1.0
    assert temperature.divisor(9) == 3.0
    assert temperature.divisor(9, power=2) == 81.0


def test_results_do_not_change_under_the_hand():
    with pytest.raises(AttributeError):
        temperature.scale_invariant([1]).scale = None
    with pytest.raises(AttributeError):
        temperature.RULES["log-n"].name = "other"


def test_the_table_of_rules():
    trained = {name for name, rule in temperature.RULES.items() if rule.needs_training}
    assert trained == {"scale-invariant"}
    functions = {
        "constant": temperature.constant,
        "log-n": temperature.log_n,
        "step-log": temperature.step_log,
        "entropy-matched": temperature.entropy_matched,
        "scale-invariant": temperature.scale_invariant,
    }
    assert {name: rule.function for name, rule in temperature.RULES.items()} == functions


@pytest.mark.parametrize(
    "call",
    [
        lambda: temperature.constant(2, value=math.inf),
        lambda: temperature.log_n([math.inf], 512),
        lambda: temperature.log_n([3.0, math.inf, 5.0], 512),
        lambda: temperature.entropy_matched(8, [1.0, math.inf]),
        lambda: temperature.entropy_matched(8, [1.0, 0.0]),
        lambda: temperature.step_log([1], period=math.nan),
        lambda: temperature.scale_invariant([-1]),
        lambda: temperature.scale_invariant([5, -1]),
    ],
)
def test_what_is_not_finite_or_out_of_range_is_refused(call):
    with pytest.raises(UsageError):
        call()


def test_the_smallest_values_that_work():
    assert temperature.constant(2, value=1e-9) == 1e-9
    assert temperature.step_log([0], period=1).tolist() == [1 + 0.1 * math.log(2)]
    assert temperature.log_n([0], 512).tolist() == [1.0]
