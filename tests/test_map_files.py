"""Position maps as files, and the single table that stands beside each."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ropewalk.errors import DamagedError, UsageError
from ropewalk.geometry import RopeGeometry
from ropewalk.map_files import is_map, map_file, nearest_table, read_map
from ropewalk.methods import schedule
from ropewalk.position_maps import MAPS, map_for

GEOMETRY = RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)


@pytest.mark.parametrize("name", sorted(MAPS))
def test_a_map_comes_back_as_it_was(name, tmp_path):
    path = tmp_path / "map.json"
    made = map_file(map_for(name, GEOMETRY, 4096), GEOMETRY, 4096, {"by": "a test"})
    path.write_text(json.dumps(made.to_json()))
    found = read_map(path)
    assert is_map(path)
    assert found.to_json() == made.to_json()
    assert type(found.plan) is type(made.plan)
    assert (found.target_length, found.fitted) == (4096, {"by": "a test"})


def test_the_numbers_of_heads_come_back_and_older_files_have_none(tmp_path):
    path, heads = tmp_path / "map.json", np.arange(6.0).reshape(2, 3) / 7
    plan = replace(
        map_for("zones", GEOMETRY, 4096, sharpness=0.2),
        head_log_discount=heads,
        head_far_logits=heads + 1,
        head_sharpness=heads / 3,
    )
    document = map_file(plan, GEOMETRY, 4096).to_json()
    path.write_text(json.dumps(document))
    found = read_map(path).plan
    assert np.array_equal(found.head_log_discount, heads)
    assert np.array_equal(found.head_far_logits, heads + 1)
    assert np.array_equal(found.head_sharpness, heads / 3)
    assert found.sharpness == 0.2
    for name in ("head_log_discount", "head_far_logits", "head_sharpness", "sharpness"):
        del document["map"][name]
    path.write_text(json.dumps(document))
    old = read_map(path).plan
    assert (old.head_log_discount, old.head_far_logits, old.head_sharpness) == (None, None, None)
    assert (old.sharpness, old.near) == (0.0, 256)


def test_a_table_given_is_kept_and_a_damaged_file_is_named(tmp_path):
    table = schedule("yarn", GEOMETRY, factor=8)
    made = map_file(map_for("zones", GEOMETRY, 4096), GEOMETRY, 4096, nearest=table)
    assert made.nearest is table
    path = tmp_path / "map.json"
    for change in ({"map": {"name": "zones"}}, {"target_length": None}, {"nearest_table": {}}):
        path.write_text(json.dumps(made.to_json() | change))
        with pytest.raises(DamagedError, match=r"map\.json is damaged"):
            read_map(path)


def test_the_nearest_table_points_where_the_map_does():
    """By its definition, pair by pair: no other frequency of the grid is nearer, but for what keeps order and reach."""
    plan = map_for("zones", GEOMETRY, 4096, near=256)
    found = nearest_table(plan, GEOMETRY, 4096)
    assert found.attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    distances = np.round(np.geomspace(1, 4095, 512))
    own, far = GEOMETRY.inv_freq, GEOMETRY.inv_freq / 15

    def apart(pair, theta):
        angle = np.where(
            distances < 256, distances * own[pair], 256 * own[pair] + (distances - 256) * far[pair]
        )
        return float(np.mean(np.abs(np.exp(1j * angle) - np.exp(1j * distances * theta)) ** 2))

    # Where the profile rises, it is at its own best; between, it is what the pairs before ask for.
    rising = [pair for pair in range(1, 16) if found.profile[pair] > found.profile[pair - 1] + 1e-9]
    assert len(rising) > 2
    for pair in (0, *rising):
        best = apart(pair, found.inv_freq[pair])
        assert all(best <= apart(pair, own[pair] * 8**-m) + 1e-9 for m in np.linspace(0, 1, 33))
    # Pairs that the map never turns once end where it ends: within the angles that training showed.
    slow = own * 512 < 2 * math.pi
    ends = 256 * own + (4095 - 256) * far
    assert (found.inv_freq[slow] * 4095 <= ends[slow] * (1 + 1e-6)).all()
    assert (np.diff(found.profile) >= -1e-9).all()
    chunked = nearest_table(map_for("dual-chunk", GEOMETRY, 4096), GEOMETRY, 4096)
    assert np.array_equal(chunked.inv_freq, schedule("yarn", GEOMETRY, factor=8).inv_freq)
    assert nearest_table(plan, GEOMETRY, 512).is_identity


@pytest.mark.parametrize("name", ["zones", "dual-chunk"])
def test_a_map_is_no_method_and_says_what_carries_it(name):
    with pytest.raises(UsageError, match="no table of frequencies") as found:
        schedule(name, GEOMETRY, factor=8)
    assert "nearest table" in str(found.value.hint)
