"""Temperatures of heads and layers in a fit: their gradient, their file, and the weights that they are folded into."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_models import WINDOW, make_model, short_tune

import ropewalk
from ropewalk.attention.head_temperatures import HeadTemperatures, read_temperatures
from ropewalk.attention.saving import folding
from ropewalk.attention.tempers import is_temper, parse_temper
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import read_facts
from ropewalk.search.family import Family
from ropewalk.search.fit import Settings, State, advance, flat_of, with_flat
from ropewalk.search.heads import HeadLayout, Tempered, TemperedFamily
from ropewalk.search.objective import Objective, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Amounts, Row

IDS = np.random.default_rng(5).integers(0, 256, 2 * WINDOW)


def scaled_logits(model: Any, logs: dict[int, list[float]], ids: Any) -> torch.Tensor:
    """The reference: each head's part of the query projection's output times the exponential of its number."""
    heads = model.config.num_attention_heads
    handles = []
    for layer, values in logs.items():
        factor = torch.tensor(values, dtype=torch.float32).exp()

        def scale(module: Any, given: Any, query: torch.Tensor, factor: torch.Tensor = factor) -> Any:
            return (query.unflatten(-1, (heads, -1)) * factor[:, None]).flatten(-2)

        projection = model.model.layers[layer].self_attn.q_proj
        handles.append(projection.register_forward_hook(scale))
    with torch.no_grad():
        found = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
    for handle in handles:
        handle.remove()
    return found


def numbers(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.3, 0.3, count)


@pytest.mark.parametrize("by", ["layers", "heads"])
def test_a_reader_reads_under_every_heads_own_temperature(by: str) -> None:
    model = make_model()
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    schedule = ropewalk.schedule("yarn", read_facts(model.config.to_dict()).geometry, factor=2)
    values = numbers(layers if by == "layers" else layers * heads)
    rows = [[v] * heads for v in values] if by == "layers" else values.reshape(layers, heads).tolist()
    with ropewalk.apply(model, schedule):
        plain = scaled_logits(model, dict(enumerate(rows)), IDS)
    wanted = torch.nn.functional.cross_entropy(plain[:-1], torch.as_tensor(IDS[1:]), reduction="none")
    with Reader(model, temperatures=by) as reader:
        assert reader.layout is not None
        assert reader.layout.count == len(values)
        found, _ = reader.read(Tempered(schedule, values), [IDS])
        own, _ = reader.read(schedule, [IDS])
    np.testing.assert_allclose(found[0][1:], wanted.numpy(), rtol=2e-5, atol=2e-5)
    assert np.abs(found[0] - own[0]).max() > 1e-2


@pytest.mark.parametrize("by", ["layers", "heads"])
def test_the_gradient_of_a_temperature_is_that_of_small_steps(by: str) -> None:
    model = make_model().double()
    row = weigh([Row(IDS)], WINDOW, Objective())[0]
    with Reader(model, temperatures=by) as reader:
        assert reader.layout is not None
        schedule = ropewalk.schedule("yarn", reader.rotation.geometry, factor=2)
        family = TemperedFamily.at(Family.through([schedule]), reader.layout.count)
        family = family.with_extra(numbers(reader.layout.count))
        slope = reader.slopes(family, 2.0, [[row]])[0]
        assert slope.extra.shape == (reader.layout.count,)
        for place in (0, reader.layout.count - 1):
            step = np.zeros(reader.layout.count)
            step[place] = 0.05
            up, down = (
                reader.terms(family.with_extra(family.heads + sign * step).reading(2.0), [row]).value
                for sign in (1, -1)
            )
            assert slope.extra[place] == pytest.approx((up - down) / 0.1, rel=2e-2, abs=2e-5)
        twice = slope + slope
        np.testing.assert_array_equal(twice.extra, 2 * slope.extra)


def test_steps_move_heads_by_their_own_rate_and_keep_them_in_bounds() -> None:
    geometry = read_facts(make_model().config.to_dict()).geometry
    family = TemperedFamily.at(Family.through([ropewalk.schedule("yarn", geometry, factor=2)]), 3)
    assert len(State.at(family).first) == 2 * geometry.num_rotating + 2 + 3
    past = 2 * geometry.num_rotating
    back = with_flat(family, flat_of(family) + np.r_[np.zeros(past), [0.5, 3.0, -3.0], 0.0, 0.0])
    assert back.heads.tolist() == [0.5, 1.0, -1.0]
    assert back.top.tolist() == family.top.tolist()
    assert (back.cool, back.heat) == (family.cool, family.heat)
    assert TemperedFamily.from_json(geometry, back.to_json()).heads.tolist() == back.heads.tolist()

    class Steep:
        flat = np.r_[np.zeros(past), [1.0, -1.0, 0.0], 0.0, 0.0]

    state, still = State.at(family), Settings(learning_rate=0.0, heat_rate=0.0, temper=0.0)
    moved = advance(state, family, [Steep(), Steep()], 0.0, still)  # type: ignore[list-item]
    # Twice the same gradient, above its floor of 0.01: each but the first of a run moves by a share of the rate.
    share = moved.family.heads[0] / -0.03
    assert 0.3 < share < 1.0
    np.testing.assert_allclose(moved.family.heads, [-0.03 * share, 0.03 * share, 0.0])


def fit(model: Path, text: Path, output: Path, **changes: Any) -> Any:
    settings = {"target": "4x", "budget": 3, "amounts": Amounts(6, 4, 3, 4), "temperatures": "heads"}
    return short_tune(model, text, output, **(settings | changes))


def test_what_was_fitted_is_folded_and_stock_software_computes_it(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from ropewalk.search import tune as module

    held: list[Any] = []
    monkeypatch.setattr(module, "reason_to_keep_start", lambda *given: held.extend(given))
    found = fit(model_folder, text_folder, tmp_path / "run")
    assert found.temperatures == tmp_path / "run" / "temperatures.json"
    document = json.loads(found.temperatures.read_text())
    assert (document["format"], document["factor"]) == ("ropewalk-temperatures/1", 4.0)
    assert any(abs(value - 1) > 1e-3 for values in document["layers"].values() for value in values)
    assert str(found.temperatures) in json.loads(found.schedule.read_text())["notes"][-1]
    # What was held against what: yarn without temperatures, and what the two files say.
    guard, fitted, _ = held
    made = ropewalk.schedule("yarn", guard.subject.schedule.geometry, factor=4.0)
    np.testing.assert_allclose(guard.subject.schedule.inv_freq, made.inv_freq)
    assert not np.any(guard.subject.heads)
    written = [value for values in document["layers"].values() for value in values]
    np.testing.assert_allclose(np.exp(fitted.heads), written)

    ropewalk.extend(
        model_folder, schedule=found.schedule, out=tmp_path / "out", finish=folding(str(found.temperatures))
    )
    told = ropewalk.verify(tmp_path / "out", base=model_folder)
    states = {check.name: check.status for check in told.checks}
    assert states.pop("weights") == "skip"
    assert set(states.values()) == {"pass"}
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = IDS[:100]
    with torch.no_grad():
        got = stock(input_ids=torch.as_tensor(ids)[None]).logits[0]
    model = ropewalk.load_model(str(model_folder), device="cpu")
    schedule = ropewalk.FrequencySchedule.from_json(json.loads(found.schedule.read_text()))
    logs = {int(layer): np.log(values).tolist() for layer, values in document["layers"].items()}
    with ropewalk.apply(model, schedule):
        wanted = scaled_logits(model, logs, ids)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)

    # A fit that goes on and is given up then takes its temperatures along.
    (tmp_path / "run" / "manifest.json").unlink()
    monkeypatch.setattr(module, "reason_to_keep_start", lambda *given: "the start is better")
    again = fit(model_folder, text_folder, tmp_path / "run", budget=4)
    assert again.temperatures is None
    assert not (tmp_path / "run" / "temperatures.json").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperatures": "pairs"}, "unknown"),
        ({"search": "zones"}, "zones fits no temperatures"),
        ({"search": "sweep"}, "sweep fits no temperatures"),
        ({"ladder": [2, 4], "target": None}, "one factor"),
    ],
)
def test_what_no_file_could_hold_is_refused(
    model_folder: Path, text_folder: Path, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fit(model_folder, text_folder, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_a_file_holds_at_its_factor_and_fades_towards_the_model(tmp_path: Path) -> None:
    made = HeadTemperatures(8.0, {0: np.array([2.0, 0.5]), 3: np.array([1.0])})
    file = tmp_path / "Heads.JSON"
    file.write_text(json.dumps(made.to_json()))
    assert is_temper(str(file))
    back = read_temperatures(file)
    assert {layer: values.tolist() for layer, values in back.layers.items()} == {0: [2.0, 0.5], 3: [1.0]}
    assert back.logs(8.0)[0].tolist() == [math.log(2.0), math.log(0.5)]
    assert back.logs(2.0)[0].tolist() == pytest.approx([math.log(2.0) / 3, -math.log(2.0) / 3])
    assert back.logs(1.0)[0].tolist() == [0.0, 0.0]
    temper = parse_temper(str(file))
    assert temper.foldable
    model = make_model()
    with pytest.raises(UsageError, match="2 temperatures for the 4 heads of layer 0"):
        temper.put_on(model, 8.0, WINDOW)
    other = HeadTemperatures(8.0, {9: np.ones(4)})
    file.write_text(json.dumps(other.to_json()))
    with pytest.raises(UsageError, match="layer 9"):
        parse_temper(str(file)).put_on(model, 8.0, WINDOW)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no file of temperatures"),
        ('{"format": "ropewalk-schedule/1"}', "no file of temperatures"),
        ('{"format": "ropewalk-temperatures/1", "factor": 8}', "is damaged"),
        ('{"format": "ropewalk-temperatures/1", "factor": 8, "layers": {"0": null}}', "positive|damaged"),
        (
            '{"format": "ropewalk-temperatures/1", "factor": 8, "layers": {"0": [1, -1]}}',
            "no positive numbers",
        ),
        ('{"format": "ropewalk-temperatures/1", "factor": 8, "layers": {"0": []}}', "no positive numbers"),
        ('{"format": "ropewalk-temperatures/1", "factor": 1, "layers": {}}', "says? nothing of a stretch"),
        ('{"format": "ropewalk-temperatures/1", "factor": 8, "layers": {"x": [1]}}', "damaged"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "t.json"
    file.write_text(content)
    with pytest.raises(RopewalkError, match=said):
        read_temperatures(file)
    with pytest.raises(RopewalkError, match=r"missing\.json"):
        read_temperatures(tmp_path / "missing.json")


def test_sliding_layers_have_no_temperature() -> None:
    model = make_model("gemma3_text", num_hidden_layers=6)
    layout = HeadLayout.of(model, "layers")
    kinds = model.config.layer_types
    assert layout.layers == tuple(at for at, kind in enumerate(kinds) if kind == "full_attention")
    assert 0 < layout.count < len(kinds)
