from __future__ import annotations

import itertools

import pytest

import ropewalk
from ropewalk.errors import UsageError

GEOMETRY = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)
STATIC = [name for name, known in ropewalk.methods().items() if not known.needs_training]


@pytest.mark.parametrize("name", sorted(ropewalk.methods()))
def test_inside_the_window_every_rule_is_the_unmodified_model(name):
    rule = ropewalk.dynamic(name, GEOMETRY)
    for length in (1, 511, 512):
        assert rule.schedule_at(length).is_identity
        assert rule.epoch_schedule(length).is_identity


@pytest.mark.parametrize("name", STATIC)
def test_beyond_it_the_rule_is_the_method_at_the_length_in_view(name):
    rule = ropewalk.dynamic(f"dynamic-{name}", GEOMETRY)
    assert rule.schedule_at(1536) == ropewalk.schedule(name, GEOMETRY, factor=3)
    assert rule.epoch_schedule(1536) == ropewalk.schedule(name, GEOMETRY, factor=4)


def test_parameters_reach_the_method():
    rule = ropewalk.dynamic("yarn", GEOMETRY, beta_fast=8)
    assert rule.schedule_at(1024) == ropewalk.schedule("yarn", GEOMETRY, factor=2, beta_fast=8)


@pytest.mark.parametrize("growth", [1.25, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("target", [512, 513, 4096, 5000])
def test_epochs_cover_every_length_once(growth, target):
    epochs = ropewalk.dynamic("ntk", GEOMETRY, growth=growth).epochs(target)
    assert epochs[0].first_length == 1
    assert epochs[-1].last_length == target
    for before, after in itertools.pairwise(epochs):
        assert after.first_length == before.last_length + 1
        assert after.factor == pytest.approx(before.factor * growth)
    assert all(epoch.last_length <= epoch.factor * 512 + 1e-6 for epoch in epochs)


def test_doubling_reads_less_again_than_the_epoch_holds():
    rule = ropewalk.dynamic("ntk", GEOMETRY)
    for target in (512, 1024, 4096, 4097, 65536):
        again = sum(epoch.first_length - 1 for epoch in rule.epochs(target)[1:])
        assert again < rule.epoch_of(target).last_length
    assert [epoch.first_length - 1 for epoch in rule.epochs(4096)] == [0, 512, 1024, 2048]


@pytest.mark.parametrize("growth", [1.0, 0.5, float("nan"), float("inf")])
def test_growth_must_end_epochs(growth):
    with pytest.raises(UsageError, match="growth"):
        ropewalk.dynamic("ntk", GEOMETRY, growth=growth)


def test_lengths_count_tokens():
    with pytest.raises(UsageError, match="length=0"):
        ropewalk.dynamic("ntk", GEOMETRY).schedule_at(0)
