"""Skipped positions: always rising, always inside the target, and spread over all of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.errors import UsageError
from ropewalk.training.parts.positions import PositionOptions, check_target, sample_positions


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


@pytest.mark.parametrize(("keep", "wanted"), [(True, 10), (False, 20)])
def test_random_positions_are_every_choice_alike(keep, wanted):
    """Three of six positions: 20 choices, 10 with the first; each as often as any other."""
    options = PositionOptions(kind="random", target_length=6, keep_first=keep)
    rows = sample_positions(options, length=3, batch=4000, rng=np.random.default_rng(0))
    found, counts = np.unique(rows, axis=0, return_counts=True)
    choices = [list(one) for one in itertools.combinations(range(6), 3) if not keep or one[0] == 0]
    assert found.tolist() == choices
    assert len(choices) == wanted
    assert abs(counts * wanted / 4000 - 1).max() < 0.25


@pytest.mark.parametrize("keep", [True, False])
def test_skips_are_uniform_over_what_is_left(keep):
    """Four tokens of seven: cut after 1, 2 or 3, a skip of 0 to 3, all alike; without the first kept, two skips."""
    options = PositionOptions(kind="pose", target_length=7, keep_first=keep)
    rows = sample_positions(options, length=4, batch=6000, rng=np.random.default_rng(0))
    skips = np.diff(rows, axis=1) - 1
    first, second = rows[:, 0], skips.sum(axis=1)
    for start in range(1 if keep else 4):
        left = second[first == start]
        # After the first skip, the second is uniform over the rest.
        counts = np.bincount(left, minlength=4 - start)
        assert len(counts) == 4 - start
        assert abs(counts / len(left) - 1 / (4 - start)).max() < 0.04
        assert abs(len(left) / 6000 - (1 if keep else 1 / 4)) < 0.03
    assert (first == 0).all() if keep else first.max() == 3
    where = np.argmax(skips[second > 0] > 0, axis=1)
    assert abs(np.bincount(where, minlength=3) / len(where) - 1 / 3).max() < 0.04


def test_so_many_chunks_as_were_asked_for_and_fit():
    options = PositionOptions(kind="pose", target_length=10000, num_chunks=5)
    rows = sample_positions(options, length=40, batch=50, rng=np.random.default_rng(0))
    assert (np.diff(rows) > 1).sum(axis=1).max() == 4
    short = sample_positions(options, length=3, batch=50, rng=np.random.default_rng(0))
    assert (np.diff(short) > 1).sum(axis=1).max() == 2


def test_the_options_own_target_comes_first_and_bounds_are_no_fault():
    rng = np.random.default_rng(0)
    own = PositionOptions(kind="random", target_length=8)
    assert sample_positions(own, length=8, batch=1, rng=rng, target_length=4).tolist() == [list(range(8))]
    given = sample_positions(PositionOptions(kind="random"), length=4, batch=300, rng=rng, target_length=6)
    assert given.max() == 5
    check_target(PositionOptions(kind="pose", target_length=4096), target_length=4096, trained_length=4096)
    check_target(PositionOptions(kind="pose"), target_length=512, trained_length=512)
    check_target(PositionOptions(target_length=8), target_length=4, trained_length=512)
    with pytest.raises(UsageError, match="target_length=512 is shorter than a row of 513"):
        check_target(PositionOptions(kind="pose"), target_length=512, trained_length=513)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("length", "target", "chunks"), [(7, 30, 2), (12, 40, 5), (4, 9, 8), (6, 6, 3), (2, 50, 2)]
)
def test_skips_are_those_of_the_rule(length, target, chunks, keep):
    """Cuts first, then the skips from left to right, each from the one before up to all that is left."""
    options = PositionOptions(
        kind="pose", target_length=target, num_chunks=chunks, keep_first=keep, share=0.7
    )
    rows = sample_positions(options, length=length, batch=12, rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    for row in rows.tolist():
        if rng.random() >= 0.7:
            assert row == list(range(length))
            continue
        pieces = min(chunks, length)
        cuts = sorted(rng.choice(np.arange(1, length), size=pieces - 1, replace=False).tolist())
        skip = 0 if keep else int(rng.integers(0, target - length + 1))
        wanted, ends = [], [*cuts, length]
        for piece, end in enumerate(ends):
            if piece:
                skip = int(rng.integers(skip, target - length + 1))
            wanted += [place + skip for place in range(ends[piece - 1] if piece else 0, end)]
        assert row == wanted
    assert rows.dtype == np.int64


@pytest.mark.parametrize("keep", [True, False])
def test_random_positions_are_those_of_the_rule(keep):
    options = PositionOptions(kind="random", keep_first=keep)
    rows = sample_positions(options, length=5, batch=6, rng=np.random.default_rng(4), target_length=11)
    rng = np.random.default_rng(4)
    for row in rows.tolist():
        rng.random()
        if keep:
            wanted = [0, *sorted(rng.choice(np.arange(1, 11), size=4, replace=False).tolist())]
        else:
            wanted = sorted(rng.choice(11, size=5, replace=False).tolist())
        assert row == wanted
    assert rows.dtype == np.int64
    never = sample_positions(
        PositionOptions(kind="random", share=0.0, target_length=99),
        length=5,
        batch=3,
        rng=np.random.default_rng(0),
    )
    assert never.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_the_defaults_of_skipping():
    assert PositionOptions().model_dump() == {
        "kind": "plain", "target_length": None, "num_chunks": 2, "share": 1.0, "keep_first": True,
    }  # fmt: skip
    assert PositionOptions(num_chunks=1024).num_chunks == 1024
    for chunks in (1, 1025):
        with pytest.raises(ValidationError):
            PositionOptions(num_chunks=chunks)
