from __future__ import annotations

import json

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.schedule import FrequencySchedule

GEOMETRY = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)


@pytest.mark.parametrize("name", sorted(ropewalk.methods()))
def test_json_round_trip_is_exact_through_text(name):
    made = ropewalk.schedule(name, GEOMETRY, factor=8)
    back = FrequencySchedule.from_json(json.dumps(made.to_json()))
    assert back == made
    assert back.inv_freq.tobytes() == made.inv_freq.tobytes()


def test_target_length_and_factor_say_the_same():
    assert ropewalk.schedule("yarn", GEOMETRY, target_length=4096) == ropewalk.schedule(
        "yarn", GEOMETRY, factor=8
    )
    assert ropewalk.schedule("yarn", GEOMETRY, factor=8).target_length == 4096


@pytest.mark.parametrize(("window", "target"), [(73, 28834929), (196470, 26647353), (761419, 30726255)])
def test_a_long_target_comes_back_from_its_factor(window, target):
    """target / window * window is a little more than the target in floating point: one token too many, rounded up."""
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=window)
    assert ropewalk.schedule("linear", geometry, target_length=target).target_length == target


@pytest.mark.parametrize("given", [{}, {"factor": 8, "target_length": 4096}])
def test_exactly_one_stretch_is_needed(given):
    with pytest.raises(UsageError, match="needs a stretch"):
        ropewalk.schedule("yarn", GEOMETRY, **given)


@pytest.mark.parametrize(
    "document",
    ["{", "[]", "{}", '{"format": "ropewalk-schedule/9"}', '{"format": "ropewalk-schedule/1"}', "[" * 100000],
)
def test_damaged_documents_are_refused(document):
    with pytest.raises(RopewalkError) as caught:
        FrequencySchedule.from_json(document)
    assert caught.value.hint


@pytest.mark.parametrize("bad", [np.ones(3), np.full(32, np.nan), np.full(32, -1.0)])
def test_frequencies_must_fit_and_be_finite(bad):
    with pytest.raises(UsageError, match="inv_freq"):
        FrequencySchedule("mine", GEOMETRY, 2.0, bad)


def test_names_survive_the_import_of_the_rooms_beside_them():
    import ropewalk.methods
    import ropewalk.schedule

    assert callable(ropewalk.schedule)
    assert callable(ropewalk.methods)
