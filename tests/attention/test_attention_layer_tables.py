"""Tables of layers against attention matrices written out, and inside real models."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk.attention.caches import copied, new_cache
from ropewalk.attention.interface import Call
from ropewalk.attention.layer_tables import LayerNumbers
from ropewalk.attention.maps import applied, route_for
from ropewalk.attention.rotation import Rotation
from ropewalk.errors import UsageError
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import LayerTables

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import model_of, some_tokens, whole_logits

THETA = np.array([1.0, 0.3, 0.05, 0.01])
TABLES = np.array([[1.0, 0.3, 0.02, 0.001], [0.9, 0.1, 0.03, 0.002]])
LOGITS = np.array([1.0, 1.3])
WINDOW = 24
ROTATION = Rotation(torch.tensor(THETA), 1.0, 0, False)
PLAN = LayerTables(WINDOW, TABLES, LOGITS)


def _rotated(states_HTD, angles_TP):
    one, two = states_HTD[..., :4], states_HTD[..., 4:8]
    cos, sin = np.cos(angles_TP), np.sin(angles_TP)
    return np.concatenate([one * cos - two * sin, two * cos + one * sin, states_HTD[..., 8:]], axis=-1)


def _states(length):
    draw = np.random.default_rng(1)
    return (
        draw.normal(size=(4, length, 10)) * 2,
        draw.normal(size=(2, length, 10)),
        draw.normal(size=(2, length, 10)),
    )


def _plain(query_HTD, key_HTD, value_HTD, layer, start=0):
    """The attention entry by entry, for keys from `start` on; the position of entry `start` is 0."""
    key_HTD, value_HTD = (np.repeat(item, 2, axis=0) for item in (key_HTD, value_HTD))
    out = np.zeros_like(value_HTD)
    for p in range(start, query_HTD.shape[1]):
        logits = np.zeros((4, p + 1 - start))
        past = p - start >= WINDOW
        for j in range(start, p + 1):
            turn = (p - j) * (TABLES[layer] if past else THETA)
            turned = _rotated(query_HTD[:, p : p + 1], turn[None])[:, 0]
            logits[:, j - start] = (turned * key_HTD[:, j]).sum(-1) / math.sqrt(10)
        weights = np.exp(logits * (LOGITS[layer] if past else 1.0))
        weights /= weights.sum(-1, keepdims=True)
        out[:, p] = np.einsum("hj,hjd->hd", weights, value_HTD[:, start : p + 1])
    return out


def _call(query, key, value, first, mask=None, **options):
    angles = np.arange(key.shape[1])[:, None] * THETA
    rows = [_rotated(query, angles)[:, first:], _rotated(key, angles), value]
    tensors = [torch.tensor(row, dtype=torch.float32)[None] for row in rows]
    options = {"scaling": 1 / math.sqrt(10)} | options
    return Call(SimpleNamespace(training=False), *tensors, mask, options)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("first", [0, 7, 33, 45])
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_is_the_matrix_by_definition(layer, first, masked):
    states = _states(46)
    mask = torch.ones(46 - first, 46, dtype=torch.bool).tril(first)[None, None] if masked else None
    found = route_for(PLAN, ROTATION, layer)(_call(*states, first, mask))[0].transpose(0, 1).numpy()
    assert np.allclose(found, _plain(*states, layer)[:, first:], atol=2e-5)
    # What is fitted computes the same from tensors.
    numbers = LayerNumbers(torch.tensor(TABLES), torch.tensor(LOGITS))
    wrong = LayerTables(WINDOW, TABLES * 0, LOGITS * 2)
    fitted = route_for(wrong, ROTATION, layer, numbers)(_call(*states, first, mask))[0].transpose(0, 1)
    assert np.allclose(fitted.numpy(), _plain(*states, layer)[:, first:], atol=2e-5)


def test_a_row_behind_padding_has_its_window_where_it_begins():
    states, start = _states(46), 6
    mask = torch.ones(46, 46, dtype=torch.bool).tril()[None, None].clone()
    mask[..., :start] = False
    places = torch.arange(46)[None] - start
    call = _call(*states, 0, mask, position_ids=places.clamp(min=0))
    found = route_for(PLAN, ROTATION, 1)(call)[0].transpose(0, 1).numpy()
    assert np.allclose(found[:, start:], _plain(*states, 1, start)[:, start:], atol=2e-5)


def test_inside_the_window_the_model_attends_itself():
    states = _states(WINDOW)
    assert route_for(PLAN, ROTATION, 1)(_call(*states, 0)) is None
    assert route_for(PLAN, ROTATION, 1)(_call(*_states(WINDOW + 1), 0)) is not None


def test_tables_of_another_model_and_of_no_model_are_refused():
    with pytest.raises(UsageError, match="2 layers of 4 pairs on layer 2 of 4 pairs"):
        route_for(PLAN, ROTATION, 2)
    with pytest.raises(UsageError, match="2 layers of 4 pairs on layer 0 of 5 pairs"):
        route_for(PLAN, replace(ROTATION, inv_freq=torch.ones(5)), 0)
    for tables, logits in (
        (TABLES[0], LOGITS),
        (TABLES, LOGITS[:1]),
        (-TABLES, LOGITS),
        (TABLES * math.nan, LOGITS),
        (TABLES, LOGITS * 0),
        (TABLES, LOGITS * math.inf),
    ):
        with pytest.raises(UsageError):
            LayerTables(WINDOW, tables, logits)


def _tables(model, spread=0.2):
    """Tables that differ from layer to layer, for a window that the model has."""
    geometry = read_facts(model.config.to_dict()).geometry
    layers = model.config.get_text_config().num_hidden_layers
    made = LayerTables.of(ropewalk.schedule("yarn", geometry, factor=4.0), layers)
    draw = np.random.default_rng(5)
    return replace(
        made,
        inv_freq=made.inv_freq * np.exp(spread * draw.normal(size=made.inv_freq.shape)),
        logits=made.logits * np.exp(spread * draw.normal(size=layers)),
    )


def test_one_schedule_in_every_layer_keeps_its_frequencies_and_its_temperature():
    geometry = ropewalk.RopeGeometry(head_dim=8, rope_theta=1e4, original_length=32)
    made = ropewalk.schedule("yarn", geometry, factor=4.0)
    tables = LayerTables.of(made, 3)
    assert tables.inv_freq.tolist() == [made.inv_freq.tolist()] * 3
    assert tables.logits == pytest.approx([(1 + 0.1 * math.log(4)) ** 2] * 3)
    assert tables.original_length == 32


@pytest.mark.parametrize("kind", ["llama", "latent", "gemma3"])
def test_in_a_model_chunks_steps_crops_and_forks_are_one_forward(kind):
    model, ids, other = model_of(kind), some_tokens(90), some_tokens(90, 9)
    before, plan = whole_logits(model, ids), _tables(model)

    @torch.inference_mode()
    def step(cache, tokens):
        return model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0]

    with applied(model, plan):
        whole = whole_logits(model, ids)
        cache = new_cache(model, 70, forkable=True)
        steps = [step(cache, ids[begin:end]) for begin, end in ((0, 25), (25, 60), (60, 61), (61, 90))]
        assert torch.allclose(torch.cat(steps), whole, atol=1e-4)
        fork = copied(cache)
        # Cut back into the window and go on with other words: nothing old may come back.
        cache.crop(-80)
        found = torch.cat([step(cache, other[begin:end]) for begin, end in ((10, 13), (13, 60), (60, 61))])
        assert torch.allclose(found, whole_logits(model, ids[:10] + other[10:61])[10:], atol=1e-4)
        fork.crop(-30)
        found = step(fork, other[60:70])[-1]
        assert torch.allclose(found, whole_logits(model, ids[:60] + other[60:70])[-1], atol=1e-4)
    # Queries inside the window do not know what follows.
    assert torch.allclose(whole[:32], before[:32], atol=1e-4)
    assert not torch.allclose(whole[-1], before[-1], atol=1e-2)
    assert torch.equal(whole_logits(model, ids), before)


def test_one_table_for_all_layers_is_that_schedule_once_every_query_is_past_the_window():
    """A window of one token: only the first query is inside it, and it sees but itself."""
    model, ids = model_of("llama"), some_tokens(60)
    geometry = read_facts(model.config.to_dict()).geometry
    schedule = ropewalk.schedule("ntk", geometry, factor=2.0)
    plan = replace(LayerTables.of(schedule, model.config.num_hidden_layers), original_length=1)
    with applied(model, plan):
        found = whole_logits(model, ids)
    with ropewalk.apply(model, schedule):
        assert torch.allclose(found, whole_logits(model, ids), atol=1e-4)
