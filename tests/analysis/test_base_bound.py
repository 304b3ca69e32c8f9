"""The smallest base for a length: the scan, the table, and the estimate within its stated tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropewalk.analysis import base, base_bound, base_bound_within, rotary_kernel
from ropewalk.analysis.base import scan_base_bound
from ropewalk.analysis.base_table import BASE_BOUNDS
from ropewalk.errors import UsageError


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


@pytest.mark.parametrize("rotary_dim", [6, 14, 16, 20, 48, 64, 112, 128, 160])
@pytest.mark.parametrize("length", [1500, 5000])
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
    assert math.isinf(scan_base_bound(4, 2000))


def test_the_last_two_rows_have_their_own_line_too():
    """Three million tokens: 0.52 of the way from two to four million, on a logarithmic scale."""
    low, high = BASE_BOUNDS[128, 1 << 21], BASE_BOUNDS[128, 1 << 22]
    share = math.log2(3_000_000 / (1 << 21))
    assert base_bound(128, 3_000_000) == pytest.approx(low ** (1 - share) * high**share, rel=1e-9)
    assert low < base_bound(128, 3_000_000) < high


def test_scanning_ends_at_1024_tokens():
    assert base_bound_within(48, 1024) == pytest.approx(1.005, abs=1e-4)
    assert base_bound_within(48, 1025) == 6.0
    assert base_bound_within(48, (1 << 22) + 1) == 10.0


def test_base_bound_refuses_odd_heads():
    with pytest.raises(UsageError, match="rotary_dim=7"):
        base_bound(7, 100)


def test_one_pair_never_stays_positive():
    assert math.isinf(base_bound(2, 100))
    assert math.isinf(base_bound(2, 1 << 30))


@pytest.mark.parametrize("block", [64, 100, 999, 1000])
def test_the_scan_looks_at_every_block(block, monkeypatch):
    expected = scan_base_bound(32, 1000)
    monkeypatch.setattr(base, "_SCAN_BLOCK", block)
    assert scan_base_bound(32, 1000) == expected


def test_the_scan_against_every_base_and_distance():
    """All bases in half per cents, all distances, no hints and no growing windows."""
    for rotary_dim, length in ((16, 100), (32, 300)):
        exponents = np.arange(0, rotary_dim, 2) / rotary_dim
        step = 0
        while (
            np.cos(np.outer(np.arange(length), (2 * math.exp(step * 0.005)) ** -exponents)).sum(axis=1).min()
            < 0
        ):
            step += 1
        assert scan_base_bound(rotary_dim, length) == pytest.approx(2 * math.exp(step * 0.005), rel=1e-12)


def test_a_known_lower_base_is_looked_at_itself():
    bound = scan_base_bound(32, 300)
    assert scan_base_bound(32, 300, least=bound) == bound
    assert scan_base_bound(8, 1) == 2.0


def test_bases_end_at_the_largest_that_is_looked_at(monkeypatch):
    """Heads of 128 and 4,096 tokens need 28,656.8: none where 20,000 is the largest. A limit that is met counts."""
    from ropewalk.analysis import base

    found = base.scan_base_bound(128, 4096)
    assert found == pytest.approx(28656.8, abs=0.1)
    guessed = base.base_bound(128, 3_000_000)
    monkeypatch.setattr(base, "_LARGEST_BASE", 40000.0)
    assert base.scan_base_bound(128, 4096) == found
    monkeypatch.setattr(base, "_LARGEST_BASE", 20000.0)
    assert base.scan_base_bound(128, 4096) == math.inf
    monkeypatch.setattr(base, "_LARGEST_BASE", guessed)
    assert base.base_bound(128, 3_000_000) == guessed
    monkeypatch.setattr(base, "_LARGEST_BASE", guessed * 0.999)
    assert base.base_bound(128, 3_000_000) == math.inf
