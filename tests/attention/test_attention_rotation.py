"""The rotation that is found is the one that the architecture's own code makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import ropewalk
from ropewalk.attention.interface import routed
from ropewalk.attention.rotation import Rotation, rotations
from ropewalk.models.facts import read_facts
from ropewalk.models.live.rotary import spectra

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import KINDS, model_of


@pytest.mark.parametrize("kind", [*sorted(KINDS), "cohere", "smollm3"])
def test_keys_at_other_positions_are_what_turning_gives(kind):
    extra = {"cohere": {}, "smollm3": {"no_rope_layers": [1, 0], "num_hidden_layers": 2}}
    if kind in extra:
        KINDS.setdefault(kind, (kind, extra[kind]))
    model = model_of(kind)
    found = rotations(model)
    rotating = [index for index, rotation in found.items() if rotation is not None]
    assert rotating == ([0] if kind == "smollm3" else [0, 1])
    keys: dict[int, list] = {index: [] for index in found}
    route = {index: lambda call: keys[call.layer].append(call.key_BHKD) for index in found}
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode(), routed(model, route):
        for shift in (2, 17):
            model(input_ids=ids, position_ids=torch.arange(12)[None] + shift, use_cache=False)
    for index, rotation in found.items():
        one, other = keys[index]
        if rotation is None:
            assert torch.allclose(one, other, atol=1e-4)
            continue
        angles = 15 * rotation.inv_freq[None].expand(12, -1)
        assert torch.allclose(rotation.turned_by(one, angles), other, atol=1e-4)
        assert not torch.allclose(one, other, atol=1e-2)


def test_it_follows_the_schedule_in_force_and_its_attention_factor():
    model = model_of("llama")
    geometry = read_facts(model.config.to_dict()).geometry
    schedule = ropewalk.schedule("yarn", geometry, factor=4)
    with ropewalk.apply(model, schedule):
        found = rotations(model)[1]
    assert found.inv_freq.tolist() == pytest.approx(schedule.inv_freq.tolist(), rel=1e-6)
    assert found.attention_factor == pytest.approx(schedule.attention_factor, rel=1e-6)
    plain = next(iter(spectra(model)))
    assert rotations(model)[1].inv_freq.tolist() == pytest.approx(plain.inv_freq.tolist(), rel=1e-6)


def test_turning_by_hand():
    states = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 9.0]]]])
    quarter = torch.tensor([[torch.pi / 2, 0.0]], dtype=torch.float64)
    inv_freq = torch.ones(2, dtype=torch.float64)
    halves = Rotation(inv_freq, 1.0, 0, False).turned_by(states, quarter)
    assert halves.flatten().tolist() == pytest.approx([-3.0, 2.0, 1.0, 4.0, 9.0], abs=1e-6)
    neighbours = Rotation(inv_freq, 1.0, 1, True).turned_by(states, quarter)
    assert neighbours.flatten().tolist() == pytest.approx([1.0, -3.0, 2.0, 4.0, 9.0], abs=1e-6)


def test_a_temperature_on_the_queries_is_no_part_of_it():
    from ropewalk.attention.interface import add_query_hook, attention_modules

    model = model_of("llama")
    for module in attention_modules(model).values():
        add_query_hook(
            module,
            lambda module, query, key, kwargs: (query * kwargs["position_ids"][:, None, :, None], kwargs),
        )
    assert rotations(model)[1].num_pairs == 4
