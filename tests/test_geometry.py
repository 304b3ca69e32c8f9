from __future__ import annotations

import math

import numpy as np
import pytest

from ropewalk.errors import UsageError
from ropewalk.geometry import RopeGeometry, check_factor


def test_frequencies_are_the_definition():
    geometry = RopeGeometry(head_dim=8, rope_theta=100.0, original_length=64)
    assert geometry.inv_freq.tolist() == pytest.approx([1.0, 100**-0.25, 0.1, 100**-0.75], rel=1e-15)
    assert geometry.rotations[0] == pytest.approx(64 / (2 * math.pi))
    assert not geometry.inv_freq.flags.writeable


def test_llama_geometry_has_the_published_critical_dimension():
    assert RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096).critical_dim == 92


def test_critical_dimension_counts_exactly_the_pairs_that_turn():
    for theta in (500.0, 1e4, 5e5):
        for length in (64, 512, 4096, 131072):
            geometry = RopeGeometry(head_dim=64, rope_theta=theta, original_length=length)
            turning = int(np.sum(geometry.rotations > 1.0))
            assert geometry.critical_dim == 2 * turning


def test_partial_rotary_cuts_the_head():
    geometry = RopeGeometry(head_dim=80, rope_theta=1e4, original_length=2048, partial_rotary_factor=0.4)
    assert (geometry.rotary_dim, geometry.half_dim) == (32, 16)


def test_proportional_keeps_the_exponent_over_the_whole_head_and_a_zero_tail():
    geometry = RopeGeometry(512, 1e6, 1024, partial_rotary_factor=0.25, proportional=True)
    assert (geometry.half_dim, geometry.num_rotating) == (256, 64)
    assert geometry.inv_freq[63] == pytest.approx(1e6 ** (-126 / 512))
    assert not geometry.inv_freq[64:].any()
    assert np.isinf(geometry.wavelength[64:]).all()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("head_dim", 0, "head_dim=0"),
        ("head_dim", 7, "rotary_dim=7"),
        ("head_dim", -2, "head_dim=-2"),
        ("head_dim", 2.5, "head_dim=2.5"),
        ("head_dim", True, "head_dim='True'"),
        ("head_dim", "64", "head_dim='64'"),
        ("rope_theta", 1.0, "rope_theta=1"),
        ("rope_theta", float("nan"), "rope_theta=nan"),
        ("rope_theta", float("inf"), "rope_theta=inf"),
        ("rope_theta", 10**400, "rope_theta=inf"),
        ("original_length", 0, "original_length=0"),
        ("partial_rotary_factor", 0.0, "partial_rotary_factor=0"),
        ("partial_rotary_factor", 1.5, "partial_rotary_factor=1.5"),
        ("partial_rotary_factor", 0.05, "rotary_dim=3"),
    ],
)
def test_bad_values_are_named(field, value, said):
    values = {"head_dim": 64, "rope_theta": 1e4, "original_length": 512} | {field: value}
    with pytest.raises(UsageError) as caught:
        RopeGeometry(**values)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_proportional_share_turns_at_least_one_pair():
    assert RopeGeometry(64, 1e4, 512, partial_rotary_factor=2 / 64, proportional=True).num_rotating == 1
    with pytest.raises(UsageError, match=r"partial_rotary_factor=0\.03 of head_dim=64") as caught:
        RopeGeometry(64, 1e4, 512, partial_rotary_factor=0.03, proportional=True)
    assert caught.value.hint == "it takes 0.03125 for the first"


@pytest.mark.parametrize("factor", [0, -3, float("nan"), float("inf"), 0.5, "8", None, True, 1e9])
def test_bad_factors_are_refused(factor):
    with pytest.raises(UsageError, match="factor="):
        check_factor(factor)


def test_geometry_survives_json():
    geometry = RopeGeometry(512, 1e6, 1024, partial_rotary_factor=0.25, proportional=True)
    assert RopeGeometry.from_json(geometry.to_json()) == geometry
