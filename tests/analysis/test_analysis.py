from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ropewalk
from ropewalk.analysis import (
    base_bound,
    base_bound_within,
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
from ropewalk.analysis.base import scan_base_bound
from ropewalk.analysis.base_table import BASE_BOUNDS
from ropewalk.errors import RopewalkError, UsageError

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


@pytest.mark.parametrize(("length", "published"), [(4096, 2.7e4), (32768, 6.4e5), (131072, 7.8e6)])
def test_base_bounds_lie_where_they_were_published(length, published):
    assert base_bound(128, length) == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize("key", [(64, 4096), (128, 4096), (128, 8192)])
def test_the_table_holds_what_the_scan_finds(key):
    assert BASE_BOUNDS[key] == pytest.approx(scan_base_bound(*key), rel=1e-5)


def test_below_the_bound_some_distance_is_negative_and_at_it_none():
    bound = scan_base_bound(48, 1000)
    exponents = np.arange(0, 48, 2) / 48
    assert rotary_kernel(bound**-exponents, 1000).min() >= 0
    for lower in np.geomspace(bound / 3, bound * 0.994, 20):
        assert rotary_kernel(lower**-exponents, 1000).min() < 0


@pytest.mark.parametrize("rotary_dim", [48, 64, 112, 128, 160])
@pytest.mark.parametrize("length", [1500, 3000, 5000, 12000])
def test_an_estimated_bound_is_within_its_tolerance_of_the_scan(rotary_dim, length):
    scanned, within = scan_base_bound(rotary_dim, length), base_bound_within(rotary_dim, length)
    assert 1.0 <= within <= 6.0
    assert 1 / within <= base_bound(rotary_dim, length) / scanned <= within


@pytest.mark.parametrize("rotary_dim", [32, 64, 128, 256, 72, 512, 8])
def test_the_bound_grows_with_the_length_at_any_length(rotary_dim):
    lengths = [*range(1025, 5000, 400), 10**5, 10**6, 1 << 22, 1 << 24, 1 << 30, 1 << 40]
    bounds = [base_bound(rotary_dim, length) for length in lengths]
    assert bounds == sorted(bounds)
    assert all(base_bound_within(rotary_dim, length) >= 1.0 for length in lengths)


def test_between_two_rows_the_bound_lies_between_theirs_and_on_their_line():
    low, high = BASE_BOUNDS[128, 4096], BASE_BOUNDS[128, 8192]
    middle = base_bound(128, 5793)
    assert middle == pytest.approx(math.sqrt(low * high), rel=1e-3)
    assert base_bound_within(128, 5793) == pytest.approx(math.sqrt(high / low), rel=1e-3)
    assert base_bound_within(128, 5000) == pytest.approx(high / base_bound(128, 5000))
    assert base_bound_within(128, 7500) == pytest.approx(base_bound(128, 7500) / low)
    assert base_bound(128, 4096) == low
    assert base_bound_within(128, 4096) == pytest.approx(1.005, abs=1e-4)


def test_other_heads_lie_between_their_neighbours():
    # 112 stands log(112/96)/log(128/96) = 0.536 of the way from 96 to 128.
    share = math.log(112 / 96) / math.log(128 / 96)
    expected = BASE_BOUNDS[96, 4096] ** (1 - share) * BASE_BOUNDS[128, 4096] ** share
    assert base_bound(112, 4096) == pytest.approx(expected, rel=1e-9)
    assert base_bound_within(112, 4096) == 6.0
    # Beyond the table's heads the outermost one stands in.
    assert base_bound(512, 4096) == pytest.approx(BASE_BOUNDS[256, 4096])
    assert base_bound(16, 4096) == pytest.approx(BASE_BOUNDS[32, 4096])


def test_beyond_the_table_the_last_rows_line_goes_on():
    lengths = [1 << power for power in range(16, 23)]
    bounds = [BASE_BOUNDS[128, length] for length in lengths]
    slope, offset = np.polyfit(np.log(lengths), np.log(bounds), 1)
    assert base_bound(128, 1 << 26) == pytest.approx(math.exp(offset + slope * math.log(1 << 26)), rel=1e-6)
    assert base_bound_within(128, 1 << 26) == 10.0
    assert math.isinf(base_bound(32, 1 << 26))
    assert math.isinf(base_bound(128, 1 << 40))


def test_exact_scans_and_short_windows_are_scanned_anyway():
    assert base_bound(48, 1000) == scan_base_bound(48, 1000) == base_bound(48, 1000, exact=True)
    assert base_bound(48, 3000, exact=True) == scan_base_bound(48, 3000)
    assert base_bound_within(48, 1000) == pytest.approx(1.005, abs=1e-4)
    # A known lower base only saves steps.
    assert scan_base_bound(48, 3000, least=scan_base_bound(48, 1000)) == scan_base_bound(48, 3000)
    assert math.isinf(scan_base_bound(4, 100_000))


def test_base_bound_refuses_odd_heads():
    with pytest.raises(UsageError, match="rotary_dim=7"):
        base_bound(7, 100)


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
