"""The gradient in profile and temperature, and the frequencies that a live model really turns by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from search_models import WINDOW, make_model

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.position_maps import map_for
from ropewalk.search.family import Family, tuned_schedule
from ropewalk.search.heads import TemperedFamily
from ropewalk.search.objective import Objective, usual, weigh
from ropewalk.search.reading import NonFiniteLossError, Reader, Slope
from ropewalk.search.rotation import Rotation
from ropewalk.search.rows import Row
from ropewalk.search.zones import ZoneFamily

NEOX = {
    "std": 0.5,
    "num_key_value_heads": None,
    "head_dim": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
KINDS = [("llama", {}), ("qwen3", {"std": 0.6}), ("gpt_neox", NEOX)]


def ids_of(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length)


def some_rows() -> list:
    rows = [Row(ids_of(150)), Row(ids_of(150, 1), "kv", 0.1, (146, 147, 148))]
    return weigh(rows, WINDOW, Objective())


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=[kind for kind, _ in KINDS])
def test_reading_under_a_schedule_is_reading_the_model_it_was_applied_to(kind: str, changes: dict) -> None:
    model = make_model(kind, **changes)
    ids = ids_of(150)
    with Reader(model) as reader:
        made = ropewalk.schedule("yarn", reader.rotation.geometry, factor=4)
        mine, _ = reader.read(made, [ids])
        own, _ = reader.read(None, [ids])
    with ropewalk.apply(model, made), torch.no_grad():
        logits = model(input_ids=torch.as_tensor(ids)[None], use_cache=False).logits[0, :-1]
    plain = torch.nn.functional.cross_entropy(logits, torch.as_tensor(ids[1:]), reduction="none").numpy()
    np.testing.assert_allclose(mine[0][1:], plain, rtol=1e-5, atol=1e-5)
    assert np.abs(mine[0] - own[0]).max() > 0.01


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_equals_finite_differences(kind: str, changes: dict, checkpointing: bool) -> None:
    rows = some_rows()
    with Reader(make_model(kind, **changes), checkpointing=checkpointing) as reader:
        geometry = reader.rotation.geometry
        family = Family.through([ropewalk.schedule("yarn", geometry, factor=f) for f in (2, 4)])
        slope = reader.slopes(family, 3.0, [rows])[0]

        def value(moved: Family) -> float:
            return sum(reader.terms(moved.schedule(3.0), rows).by_row)

        assert slope.value == pytest.approx(value(family), rel=1e-5)
        share = math.log(3) / math.log(4)
        # In float32 a difference over 2e-3 carries about 1e-3 of noise: pairs whose slope is larger are compared.
        checked = 0
        for number in range(len(family.top)):
            step = np.zeros(len(family.top))
            step[number] = 1e-3
            up, down = replace(family, top=family.top + step), replace(family, top=family.top - step)
            difference = (value(up) - value(down)) / 2e-3
            if abs(difference) > 0.05:
                assert slope.top[number] == pytest.approx(difference, rel=0.08)
                checked += 1
            assert slope.low[number] * share == pytest.approx(slope.top[number] * (1 - share), abs=1e-9)
        up, down = replace(family, heat=family.heat + 1e-2), replace(family, heat=family.heat - 1e-2)
        assert slope.heat == pytest.approx((value(up) - value(down)) / 2e-2, rel=0.05, abs=2e-3)
        assert slope.cool * share == pytest.approx(slope.heat * (1 - share), abs=1e-9)
        assert checked >= 1


def test_a_row_weighs_what_its_tokens_say() -> None:
    text, planted = some_rows()
    objective = Objective()
    assert planted.weights.nonzero()[0].tolist() == [146, 147, 148]
    assert planted.weights.sum() == pytest.approx(objective.answer)
    assert text.weights[0] == 0
    np.testing.assert_allclose(text.weights[1:WINDOW], objective.window / (WINDOW - 1))
    assert text.weights[WINDOW:].sum() == pytest.approx(1.0)
    assert text.weights[-1] == pytest.approx(3 * text.weights[WINDOW])


def test_zones_are_judged_at_every_length_alike_and_not_inside_the_window() -> None:
    row = some_rows()[0].row
    [item] = weigh([row], WINDOW, usual("zones"))
    assert not item.weights[:WINDOW].any()
    np.testing.assert_allclose(item.weights[WINDOW:], 1 / (row.length - WINDOW))
    [asked] = weigh([Row(row.ids, "kv", 0.1, (146, 147))], WINDOW, usual("zones"), [np.ones(row.length)])
    assert asked.weights.nonzero()[0].tolist() == [146, 147]
    assert asked.weights.sum() == pytest.approx(0.25)
    # What key tokens weigh in other searches they do not weigh here.
    [keyed] = weigh([row], WINDOW, usual("zones"), [np.ones(row.length)])
    assert np.array_equal(keyed.weights, item.weights)
    assert usual("fit") == usual("cma") == Objective()


def test_terms_are_means_over_the_right_tokens() -> None:
    rows = some_rows()
    with Reader(make_model()) as reader:
        losses, _ = reader.read(None, [item.row.ids for item in rows])
        terms = reader.terms(None, rows)
        tail = reader.tail
    assert terms.text == pytest.approx(losses[0][WINDOW:].mean())
    assert terms.tail == pytest.approx(losses[0][-tail:].mean())
    assert terms.window == pytest.approx(losses[0][1:WINDOW].mean())
    assert terms.answer == pytest.approx(losses[1][[146, 147, 148]].mean())
    assert terms.value == pytest.approx(
        float(rows[0].weights @ losses[0]) + float(rows[1].weights @ losses[1])
    )
    assert set(terms.found) == {"kv"}


def test_an_answer_is_found_where_every_token_is_the_likeliest() -> None:
    model = make_model()
    ids = torch.as_tensor(ids_of(100))[None]
    with torch.no_grad():
        # Greedy continuation: what the model itself would write is found, another last token is not.
        for _ in range(3):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    right = ids[0].numpy()
    wrong = right.copy()
    wrong[-1] = (wrong[-1] + 1) % 250
    rows = weigh(
        [Row(right, "kv", 0.0, (100, 101, 102)), Row(wrong, "kv", 0.0, (100, 101, 102))], WINDOW, Objective()
    )
    with Reader(model) as reader:
        assert reader.terms(None, rows).found == {"kv": [1.0, 0.0]}


def test_kept_first_tokens_turn_by_the_models_own_frequencies() -> None:
    model = make_model()
    rotation = Rotation(model)
    geometry = rotation.geometry
    made = ropewalk.schedule("linear", geometry, factor=4)
    module = rotation.places[0].module
    positions = torch.arange(12)[None]
    x = torch.zeros(1, 12, 4)
    own = module(x, positions)
    with rotation.turning(torch.tensor(made.inv_freq), 1.0):
        whole = module(x, positions)
    with rotation.turning(torch.tensor(made.inv_freq), 1.0, kept_first=5):
        cos, sin = module(x, positions)
    for mixed, first, rest in ((cos, own[0], whole[0]), (sin, own[1], whole[1])):
        assert torch.equal(mixed[:, :5], first[:, :5])
        assert torch.equal(mixed[:, 5:], rest[:, 5:])
    assert not torch.equal(own[0], whole[0])
    assert all(torch.equal(a, b) for a, b in zip(module(x, positions), own, strict=True))


def test_reader_leaves_the_model_as_it_was() -> None:
    model = make_model()
    before = model(input_ids=torch.as_tensor(ids_of(80))[None]).logits
    with Reader(model, checkpointing=True) as reader:
        family = Family.through([ropewalk.schedule("yarn", reader.rotation.geometry, factor=4)])
        reader.slopes(family, 4.0, [some_rows()])
        assert not any(tensor.requires_grad for tensor in model.parameters())
    assert all(tensor.requires_grad and tensor.grad is None for tensor in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(input_ids=torch.as_tensor(ids_of(80))[None]).logits, before)


def test_a_loss_that_is_no_number_is_said() -> None:
    with Reader(make_model()) as reader:
        geometry = reader.rotation.geometry
        hot = tuned_schedule(geometry, 4.0, np.zeros(geometry.half_dim), 1e30)
        with pytest.raises(NonFiniteLossError):
            reader.read(hot, [ids_of(80)])


def test_a_model_without_rotary_module_is_refused() -> None:
    model = make_model("gpt2", num_key_value_heads=None, head_dim=None, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(RopewalkError):
        Reader(model)


@pytest.mark.parametrize("kind", ["one", "heads", "zones"])
def test_a_model_in_bfloat16_has_nearly_the_gradient_of_float32(kind: str) -> None:
    def slope(dtype: torch.dtype) -> Slope:
        model = make_model().to(dtype)
        with Reader(model, temperatures="heads" if kind == "heads" else "one") as reader:
            geometry = reader.rotation.geometry
            family = Family.through([ropewalk.schedule("yarn", geometry, factor=4)])
            if reader.layout is not None:
                family = TemperedFamily.at(family, reader.layout.count)
            if kind == "zones":
                shape = model.config.num_hidden_layers, model.config.num_attention_heads
                family = ZoneFamily.at(geometry, map_for("zones", geometry, 4 * WINDOW), shape)
            return reader.slopes(family, family.highest, [some_rows()])[0]

    exact, rounded = slope(torch.float32), slope(torch.bfloat16)
    # Seven bits of a mantissa in weights and states; the numbers themselves stay float64 until they turn states.
    assert rounded.value == pytest.approx(exact.value, rel=1e-3)
    assert np.linalg.norm(exact.flat) > 0.01
    assert np.linalg.norm(rounded.flat - exact.flat) < 0.03 * np.linalg.norm(exact.flat)
    assert not np.array_equal(rounded.flat, exact.flat)
