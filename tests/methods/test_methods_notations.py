"""Each statement of docs/formulas.md about the four notations of NTK scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ropewalk
from ropewalk import notations

geometries = st.builds(
    ropewalk.RopeGeometry,
    head_dim=st.integers(2, 128).map(lambda half: 2 * half),
    rope_theta=st.floats(100.0, 1e7),
    original_length=st.integers(64, 1 << 17),
)
factors = st.floats(1.01, 256.0)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries, factor=factors)
def test_base_and_step_are_the_same_schedule(geometry, factor):
    step = factor ** (2 / (geometry.rotary_dim - 2))
    by_base = ropewalk.schedule("ntk", geometry, factor=factor)
    by_step = ropewalk.schedule("ntk", geometry, factor=factor, step=step)
    written_out = geometry.inv_freq * step ** -np.arange(geometry.half_dim)
    assert by_base.inv_freq == pytest.approx(by_step.inv_freq, rel=1e-10)
    assert by_base.inv_freq == pytest.approx(written_out, rel=1e-10)
    assert notations.factor_from_step(geometry.rotary_dim, step) == pytest.approx(factor, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries, factor=factors)
def test_base_keeps_the_first_pair_and_interpolates_the_last_exactly(geometry, factor):
    made = ropewalk.schedule("ntk", geometry, factor=factor)
    assert made.stretch[0] == 1.0
    assert made.stretch[-1] == pytest.approx(factor, rel=1e-10)
    assert made.profile == pytest.approx(np.arange(geometry.half_dim) / (geometry.half_dim - 1), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries, factor=factors)
def test_pair_and_power_are_the_same_schedule_and_miss_the_last_pair(geometry, factor):
    dim = geometry.rotary_dim
    by_pair = ropewalk.schedule("ntk-d", geometry, factor=factor)
    by_power = ropewalk.schedule("ntk-power", geometry, factor=factor)
    written_out = geometry.inv_freq * factor ** (-2 * np.arange(geometry.half_dim) / dim)
    assert by_pair.inv_freq == pytest.approx(by_power.inv_freq, rel=1e-10)
    assert by_pair.inv_freq == pytest.approx(written_out, rel=1e-10)
    assert by_pair.stretch[-1] == pytest.approx(factor ** ((dim - 2) / dim), rel=1e-10)
    assert factor / by_pair.stretch[-1] == pytest.approx(factor ** (2 / dim), rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries, factor=factors)
def test_power_with_the_exact_exponent_is_ntk(geometry, factor):
    reaching = ropewalk.schedule("ntk-power", geometry, factor=factor, reach_last=True)
    assert reaching.inv_freq == pytest.approx(
        ropewalk.schedule("ntk", geometry, factor=factor).inv_freq, rel=1e-10
    )


@settings(max_examples=30, deadline=None)
@given(geometry=geometries, factor=factors)
def test_scale_is_power_less_one(geometry, factor):
    scale = math.log(factor) / math.log(geometry.rope_theta)
    by_scale = ropewalk.schedule("ntk-power", geometry, factor=factor, scale=scale)
    by_power = ropewalk.schedule("ntk-power", geometry, factor=factor, power=1 + scale)
    assert by_scale.inv_freq.tolist() == by_power.inv_freq.tolist()
    assert by_scale.inv_freq == pytest.approx(
        ropewalk.schedule("ntk-d", geometry, factor=factor).inv_freq, rel=1e-10
    )


def test_the_popular_form_loses_a_third_of_a_percent_per_doubling_at_128_dimensions():
    geometry = ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
    assert ropewalk.schedule("ntk-d", geometry, factor=8).stretch[-1] == pytest.approx(7.744, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(geometry=geometries, factor=factors)
def test_mixing_runs_from_linear_to_ntk_and_abf_solves_for_any_pair(geometry, factor):
    linear, ntk = (ropewalk.schedule(name, geometry, factor=factor) for name in ("linear", "ntk"))
    mixed = {
        share: ropewalk.schedule("ntk-mixed", geometry, factor=factor, share=share) for share in (0.0, 1.0)
    }
    assert mixed[0.0].inv_freq == pytest.approx(linear.inv_freq, rel=1e-10)
    assert mixed[1.0].inv_freq == pytest.approx(ntk.inv_freq, rel=1e-10)
    assert ropewalk.schedule("abf", geometry, factor=factor).inv_freq == pytest.approx(
        ntk.inv_freq, rel=1e-10
    )
    # The base that slows an early pair by much is beyond any float; the middle pair always has one.
    middle = geometry.half_dim // 2
    solved = ropewalk.schedule("abf", geometry, factor=factor, pair=middle)
    assert solved.stretch[middle] == pytest.approx(factor, rel=1e-9)


def test_su_reaches_the_factor_at_the_last_pair():
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)
    made = ropewalk.schedule("ntk-su", geometry, factor=8)
    a = math.log(8) / 32**0.625
    assert made.inv_freq == pytest.approx(
        geometry.inv_freq * np.exp(-a * (np.arange(32) + 1) ** 0.625), rel=1e-12
    )
    assert made.stretch[-1] == pytest.approx(8)


@pytest.mark.parametrize(("factor", "apart"), [(8.0, 2.30), (32.0, 3.96)])
def test_the_code_s_ramp_and_the_paper_s_in_llama_2_s_window(factor, apart):
    geometry = ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
    made = [ropewalk.schedule("yarn", geometry, factor=factor, ramp=ramp) for ramp in ("index", "rotations")]
    ratio = made[0].inv_freq / made[1].inv_freq
    assert max(ratio.max(), (1 / ratio).max()) == pytest.approx(apart, abs=0.01)
