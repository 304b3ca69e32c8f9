from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ropewalk
from ropewalk.analysis import (
    coverage,
    decay_curve,
    effective_factor,
    kernel_distortion,
    neighbour_resolution,
    nominal_factor,
    out_of_bound,
    rotary_kernel,
    star_discrepancy,
    suggested_betas,
)
from ropewalk.errors import RopewalkError

LLAMA = ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)
geometries = st.builds(
    ropewalk.RopeGeometry,
    head_dim=st.integers(2, 64).map(lambda half: 2 * half),
    rope_theta=st.floats(200.0, 1e7),
    original_length=st.integers(64, 8192),
)


@settings(max_examples=20, deadline=None)
@given(geometry=geometries, length=st.integers(1, 700))
def test_the_kernel_is_the_plain_sum_of_cosines(geometry, length):
    plain = np.cos(np.outer(np.arange(length), geometry.inv_freq)).mean(axis=1)
    assert rotary_kernel(geometry.inv_freq, length) == pytest.approx(plain, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries, factor=st.floats(1.1, 64))
def test_linear_pushes_no_pair_out_of_bound_and_none_pushes_every_slow_one(geometry, factor):
    slow = geometry.rotations < 1
    assert not out_of_bound(ropewalk.schedule("linear", geometry, factor=factor)).any()
    assert out_of_bound(ropewalk.schedule("none", geometry, factor=factor)).tolist() == slow.tolist()


def test_ntk_reaches_about_half_of_its_nominal_factor():
    assert effective_factor(ropewalk.schedule("ntk", LLAMA, factor=8)) == pytest.approx(4.56, abs=0.01)
    assert effective_factor(ropewalk.schedule("linear", LLAMA, factor=8)) == pytest.approx(8)
    assert effective_factor(ropewalk.schedule("none", LLAMA, factor=8)) == 1
    assert math.isinf(effective_factor(ropewalk.schedule("ntk", LLAMA.with_theta(10.0), factor=8)))


@settings(max_examples=25, deadline=None)
@given(geometry=geometries.filter(lambda g: (g.rotations < 1).any()), factor=st.floats(1.5, 16))
@pytest.mark.parametrize("name", ["ntk", "ntk-d", "ntk-su", "ntk-mixed", "by-parts"])
def test_the_nominal_factor_is_the_smallest_that_reaches(name, geometry, factor):
    # The nominal factor of a changed base is about factor ** (1/m) at the first slow pair: with m under a third it
    # leaves the range of factors that are accepted at all.
    assume(np.argmax(geometry.rotations < 1) > geometry.half_dim / 3)
    nominal = nominal_factor(name, geometry, factor)
    assert effective_factor(ropewalk.schedule(name, geometry, factor=nominal)) >= factor * (1 - 1e-6)
    if nominal > 1:
        less = ropewalk.schedule(name, geometry, factor=max(1.0, nominal * (1 - 1e-5)))
        assert effective_factor(less) < factor


def test_the_nominal_factor_of_ntk_has_a_closed_form():
    critical = int(np.argmax(LLAMA.rotations < 1))
    assert nominal_factor("ntk", LLAMA, 8.0) == pytest.approx(8.0 ** (63 / critical), rel=1e-7)
    assert nominal_factor("linear", LLAMA, 8.0) == 8.0


def test_a_method_that_never_reaches_is_named():
    with pytest.raises(RopewalkError, match="'none' never"):
        nominal_factor("none", LLAMA, 8.0)


@settings(max_examples=15, deadline=None)
@given(geometry=geometries, factor=st.floats(1.0, 8), name=st.sampled_from(["none", "ntk", "yarn", "linear"]))
def test_unseen_weight_is_the_count_of_pairs(geometry, factor, name):
    made = ropewalk.schedule(name, geometry, factor=factor)
    found = coverage(made)
    target = made.target_length
    distance = np.arange(target)
    for pair in range(0, geometry.half_dim, 5):
        turned = np.mod(distance * made.inv_freq[pair] / (2 * np.pi), 1.0)
        outside = turned > found.seen[pair]
        counted = ((target - distance) * outside).sum() / ((target - distance).sum())
        # The closed form counts in the continuum: an edge moves by one distance at most each turn.
        turns = target * made.inv_freq[pair] / (2 * np.pi) + 1
        expected = counted if found.seen[pair] < 1 else 0.0
        assert found.unseen_weight[pair] == pytest.approx(expected, abs=4 * turns / target + 1e-9)


def test_coverage_shares():
    found = coverage(ropewalk.schedule("none", LLAMA, factor=8))
    assert found.seen == pytest.approx(np.minimum(1, 4095 * LLAMA.inv_freq / (2 * np.pi)))
    assert (found.seen_relative >= found.seen).all()
    slowest = -1
    assert found.unseen[slowest] == pytest.approx(1 - 4095 / 32767)
    nearer = coverage(ropewalk.schedule("none", LLAMA, factor=8), target_length=8192)
    assert nearer.unseen[slowest] == pytest.approx(1 - 4095 / 8191)
    stretched = coverage(ropewalk.schedule("linear", LLAMA, factor=8))
    assert stretched.unseen.max() < 1e-3


def test_discrepancy_tells_even_from_uneven():
    even = np.array([2 * np.pi / 100])
    assert star_discrepancy(even, 100)[0] == pytest.approx(0.01, abs=1e-9)
    still = np.array([1e-9])
    assert star_discrepancy(still, 1000)[0] == pytest.approx(1.0, abs=1e-5)
    golden = np.array([2 * np.pi * 0.6180339887498949])
    assert star_discrepancy(golden, 5000)[0] < 0.002
    fraction = np.array([2 * np.pi / 3])
    assert star_discrepancy(fraction, 3000)[0] == pytest.approx(1 / 3, abs=1e-3)


def test_distortion_and_resolution():
    none, linear, yarn = (ropewalk.schedule(name, LLAMA, factor=8) for name in ("none", "linear", "yarn"))
    assert kernel_distortion(none) == 0
    assert neighbour_resolution(none) == 1
    assert neighbour_resolution(linear) == pytest.approx(1 / 64, rel=0.2)
    assert kernel_distortion(yarn) < kernel_distortion(linear)


@settings(max_examples=40, deadline=None)
@given(
    geometry=geometries,
    factor=st.floats(1.1, 64),
    name=st.sampled_from(["linear", "ntk", "yarn", "resonance"]),
)
def test_distortion_is_the_root_mean_square_of_the_change(geometry, factor, name):
    made = ropewalk.schedule(name, geometry, factor=factor)
    distance = np.arange(geometry.original_length)[:, None]
    change = np.cos(distance * made.inv_freq).mean(axis=1) - np.cos(distance * geometry.inv_freq).mean(axis=1)
    assert kernel_distortion(made) == pytest.approx(math.sqrt(np.mean(change**2)), abs=2e-7)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries, start=st.integers(0, 5000), length=st.integers(1, 300))
def test_the_kernel_from_any_distance(geometry, start, length):
    distance = np.arange(start, start + length)[:, None]
    plain = np.cos(distance * geometry.inv_freq).mean(axis=1)
    assert rotary_kernel(geometry.inv_freq, length, start=start) == pytest.approx(plain, abs=1e-9)


def test_out_of_bound_by_hand():
    """d = 8, base 10^4, L = 64: theta = 1, 0.1, 0.01, 0.001; the last two do not complete a turn in 64 tokens and have
    seen the arcs up to 0.64 and 0.064. At 128 tokens the last position is 127."""
    geometry = ropewalk.RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    for factor, slowed, expected in (
        (2.0, [1, 1, 1, 1], [False, False, True, True]),
        (2.0, [1, 1, 64.2 / 127, 63.9 / 127], [False, False, True, False]),
        (2.0, [1, 1, 64 / 127, 64 / 127], [False, False, False, False]),
    ):
        inv_freq = np.array([1.0, 0.1, 0.01, 0.001]) * slowed
        made = ropewalk.FrequencySchedule("none", geometry, factor, inv_freq)
        assert out_of_bound(made).tolist() == expected
    none = ropewalk.schedule("none", geometry, factor=2)
    # The target decides, not the schedule's own factor: 65 tokens reach position 64, one angle step too few to be new.
    assert not out_of_bound(none, 65).any()
    assert out_of_bound(none, 66).tolist() == [False, False, True, True]


def test_decay_curves():
    distance, curve = decay_curve(ropewalk.schedule("none", LLAMA, factor=8))
    assert curve[0] == 1
    assert distance[-1] == 32767
    assert (np.abs(curve) <= 1 + 1e-12).all()


def test_betas_follow_a_small_window_and_keep_a_large_one():
    assert suggested_betas(LLAMA) == (32.0, 1.0)
    assert suggested_betas(ropewalk.RopeGeometry(64, 1e4, 512)) == (4.0, 1.0)
    assert suggested_betas(ropewalk.RopeGeometry(128, 1e4, 16384)) == (32.0, 1.0)


def test_the_angles_of_distances_count_from_both_sides():
    """d = 8, base 10^4, L = 64: 63 tokens turn the pairs by 10, 1.003, 0.1003 and 0.01003 turns."""
    geometry = ropewalk.RopeGeometry(head_dim=8, rope_theta=1e4, original_length=64)
    found = coverage(ropewalk.schedule("none", geometry, factor=2))
    turns = 63 / (2 * math.pi) * np.array([1, 0.1, 0.01, 0.001])
    assert found.seen == pytest.approx(np.minimum(1, turns))
    assert found.seen_relative == pytest.approx(np.minimum(1, 2 * turns))
    assert found.visited == pytest.approx(np.minimum(1, 127 / 63 * turns))
    assert found.unseen[2:] == pytest.approx([1 - 63 / 127] * 2)
    assert found.unseen[:2].tolist() == [0.0, 0.0]


def test_a_drawn_curve_has_every_near_distance_and_the_wanted_number_of_far_ones():
    small = ropewalk.schedule("none", ropewalk.RopeGeometry(8, 1e4, 10), factor=1)
    distance, curve = decay_curve(small)
    assert distance.tolist() == list(range(10))
    assert curve == pytest.approx([sum(math.cos(m * 10.0**-i) for i in range(4)) / 4 for m in range(10)])
    assert decay_curve(small, points=2)[0].tolist() == list(range(10))
    large = ropewalk.schedule("none", LLAMA, factor=8)
    for points in (None, 40):
        distance, _ = decay_curve(large) if points is None else decay_curve(large, points=points)
        far = {round(math.exp(math.log(32767) * i / ((points or 512) - 1))) for i in range(points or 512)}
        assert set(distance.tolist()) == far | set(range(64))


@pytest.mark.parametrize(("length", "distances"), [(1, [0, 1]), (2, [0, 1]), (3, [0, 1, 2])])
def test_the_shortest_curves(length, distances):
    geometry = ropewalk.RopeGeometry(head_dim=8, rope_theta=1e4, original_length=length)
    assert decay_curve(ropewalk.schedule("none", geometry, factor=1))[0].tolist() == distances
