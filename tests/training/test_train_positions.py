"""Skipped positions: always rising, always inside the target, and spread over all of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.errors import UsageError
from ropewalk.training.parts.options import PositionOptions
from ropewalk.training.parts.positions import check_target, sample_positions


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["pose", "random"]),
    length=st.integers(1, 60),
    beyond=st.integers(0, 500),
    chunks=st.integers(2, 9),
    keep=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_positions_rise_inside_the_target(kind, length, beyond, chunks, keep, seed):
    options = PositionOptions(kind=kind, target_length=length + beyond, num_chunks=chunks, keep_first=keep)
    rows = sample_positions(options, length=length, batch=3, rng=np.random.default_rng(seed))
    assert rows.shape == (3, length)
    assert rows.dtype == np.int64
    assert (np.diff(rows) >= 1).all()
    assert rows.min() >= 0
    assert rows.max() < length + beyond
    if keep:
        assert (rows[:, 0] == 0).all()
    if kind == "pose":
        assert ((np.diff(rows) > 1).sum(axis=1) <= chunks - 1).all()


@pytest.mark.parametrize("kind", ["pose", "random"])
def test_far_distances_are_really_seen(kind):
    options = PositionOptions(kind=kind, target_length=1024)
    rows = sample_positions(options, length=128, batch=400, rng=np.random.default_rng(0))
    reach = rows[:, -1]
    assert reach.max() > 1000
    assert np.unique(rows).size > 1000
    if kind == "pose":
        # One skip, uniform over what is left: the mean reach is half way.
        assert abs(reach.mean() - (127 + 896 / 2)) < 45


def test_share_leaves_the_rest_plain():
    options = PositionOptions(kind="pose", target_length=4096, share=0.25)
    rows = sample_positions(options, length=64, batch=400, rng=np.random.default_rng(1))
    plain = (rows == np.arange(64)).all(axis=1).mean()
    assert 0.65 < plain < 0.85


def test_same_seed_same_positions_and_plain_is_plain():
    options = PositionOptions(kind="random", target_length="4k")
    first, second = (
        sample_positions(options, length=32, batch=2, rng=np.random.default_rng(5)) for _ in range(2)
    )
    assert (first == second).all()
    plain = sample_positions(PositionOptions(), length=4, batch=2, rng=np.random.default_rng(0))
    assert plain.tolist() == [[0, 1, 2, 3]] * 2


def test_target_equal_to_the_row_is_plain():
    rows = sample_positions(
        PositionOptions(kind="pose", target_length=16), length=16, batch=4, rng=np.random.default_rng(0)
    )
    assert (rows == np.arange(16)).all()


def test_targets_that_cannot_work_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="no target_length"):
        sample_positions(PositionOptions(kind="pose"), length=8, batch=1, rng=rng)
    with pytest.raises(UsageError, match="shorter than the row"):
        sample_positions(PositionOptions(kind="pose", target_length=4), length=8, batch=1, rng=rng)
    with pytest.raises(UsageError, match="beyond the 4096"):
        check_target(PositionOptions(kind="pose", target_length=8192), target_length=4096, trained_length=512)
    with pytest.raises(UsageError, match="shorter than a row"):
        check_target(PositionOptions(kind="pose", target_length=256), target_length=4096, trained_length=512)
    with pytest.raises(ValidationError):
        PositionOptions(kind="skip")
