"""Tables of layers fitted by gradient: derivatives against differences, bounds, the file, what commands make of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from search_models import WINDOW, eval_models, make_model, save_model

import ropewalk
from ropewalk.attention.maps import applied
from ropewalk.cli.tune import show
from ropewalk.errors import DamagedError, UsageError
from ropewalk.map_files import read_map
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import LayerTables
from ropewalk.search import map_fit
from ropewalk.search.fit import Settings, State, advance
from ropewalk.search.layers import LayerFamily
from ropewalk.search.objective import Objective, weigh
from ropewalk.search.reading import Reader, Slope
from ropewalk.search.rows import Amounts, Row


def the_family(layers: int = 2) -> LayerFamily:
    """Numbers away from every closed form, well inside their bounds."""
    geometry = read_facts(make_model().config.to_dict()).geometry
    family = LayerFamily.at(ropewalk.schedule("yarn", geometry, factor=4.0), layers)
    top = np.linspace(0.3, 0.9, len(family.top))
    draw = np.random.default_rng(4)
    apart = np.hstack(
        [
            np.linspace(-0.1, 0.1, layers)[:, None] + 0.02 * np.arange(len(top)),
            0.1 * draw.normal(size=(layers, 1)),
        ]
    )
    return family.moved(top, top, 0.08, 0.08).with_extra(apart.reshape(-1))


def test_a_family_is_the_schedule_that_it_starts_at() -> None:
    geometry = read_facts(make_model().config.to_dict()).geometry
    schedule = ropewalk.schedule("yarn", geometry, factor=4.0)
    plan = LayerFamily.at(schedule, 3).plan()
    np.testing.assert_allclose(plan.inv_freq, np.tile(schedule.inv_freq, (3, 1)), rtol=1e-12)
    np.testing.assert_allclose(plan.logits, [schedule.attention_factor**2] * 3, rtol=1e-12)
    assert plan.original_length == WINDOW


def test_the_numbers_are_those_of_the_formula() -> None:
    family = the_family()
    plan, own = family.plan(), family.geometry.inv_freq
    for layer, row in enumerate(family.apart):
        wanted = [
            theta * 4.0 ** -(m + more) for theta, m, more in zip(own, family.top, row[:-1], strict=True)
        ]
        np.testing.assert_allclose(plan.inv_freq[layer], wanted, rtol=1e-12)
        assert plan.logits[layer] == pytest.approx(((1 + 0.08 * math.log(4)) * math.exp(row[-1])) ** 2)
    again = LayerFamily.from_json(family.geometry, json.loads(json.dumps(family.to_json())))
    assert again.plan().to_json() == plan.to_json()


def test_layers_are_kept_monotone_and_in_bounds() -> None:
    family = the_family()
    count = len(family.top)
    wild = np.zeros((2, count + 1))
    wild[0, 0], wild[1, -1], wild[0, -1] = 0.5, 9.0, -9.0
    made = family.with_extra(wild.reshape(-1))
    profiles = made.top + made.apart[:, :-1]
    assert (np.diff(profiles, axis=1) >= -1e-12).all()
    # The first pair, lifted above its neighbours, is pooled with those that it passes.
    first = profiles[0, 0]
    pooled = int(np.isclose(profiles[0], first).sum())
    assert pooled > 1
    assert first == pytest.approx((family.top[:pooled].sum() + 0.5) / pooled)
    np.testing.assert_allclose(profiles[1], family.top)
    assert made.apart[:, -1].tolist() == [-0.3, 0.3]
    # What is shared moves every layer.
    higher = made.moved(family.low, family.top + 0.1, 9.0, 0.05)
    np.testing.assert_allclose(higher.top + higher.apart[:, :-1], profiles + 0.1)
    assert (higher.heat, higher.cool) == (0.05, 0.05)


def test_the_gradient_is_the_slope_of_the_objective() -> None:
    model, family = make_model().double(), the_family()
    rows = weigh([Row(np.random.default_rng(3).integers(0, 200, 150))], WINDOW, Objective())
    with Reader(model, checkpointing=False) as reader:
        slope = reader.slopes(family, family.highest, [rows])[0]

        def value(other: LayerFamily) -> float:
            return reader.terms(other.plan(), rows).value

        def ends(change: Any, step: float) -> float:
            return (value(change(step)) - value(change(-step))) / (2 * step)

        assert slope.value == pytest.approx(value(family), rel=1e-5)
        found = ends(lambda step: replace(family, heat=family.heat + step, cool=family.cool + step), 1e-2)
        assert slope.heat == pytest.approx(found, rel=2e-2)
        assert slope.cool == 0
        direction = np.random.default_rng(1).normal(size=len(family.top))
        found = ends(lambda step: replace(family, top=family.top + step * direction), 1e-2)
        assert float(slope.top @ direction) == pytest.approx(found, rel=2e-2)
        # A pair that turns often bends the loss over a small distance already; temperatures come last.
        reach = np.append(2e-2 / (1 + family.geometry.rotations[: len(family.top)]) ** 1.5, 2e-2)
        for place in np.ndindex(*family.apart.shape):
            one = np.zeros(family.apart.shape)
            one[place] = 1.0
            found = ends(
                lambda step, one=one: replace(family, apart=family.apart + step * one),  # type: ignore[misc]
                reach[place[1]],
            )
            assert slope.extra.reshape(one.shape)[place] == pytest.approx(found, rel=3e-2, abs=1e-3)
    # The layers' profiles together are the shared one's.
    np.testing.assert_allclose(slope.extra.reshape(2, -1)[:, :-1].sum(0), slope.top, rtol=1e-6)


def test_a_step_moves_each_layer_by_its_own_gradient() -> None:
    geometry = the_family().geometry
    family = LayerFamily.at(ropewalk.schedule("yarn", geometry, factor=4.0), 1)
    count = len(family.top)
    gradient = np.zeros(count + 1)
    # The slowest pair may rise without pooling, and the temperature falls.
    gradient[-2:] = -0.02, 0.5
    slope = Slope(0.0, np.zeros(count), np.zeros(count), 0.0, 0.0, gradient)
    state, settings = State.at(family), Settings(temper=0.0)
    state = advance(state, family, [slope], 0.0, settings)
    moved = advance(state, family, [slope], 0.0, settings).family
    share = 1 - (1 / 24) * (1 + 0.92**2) / (1 - 0.92**2)
    turns = WINDOW * geometry.inv_freq[count - 1] / (2 * math.pi)
    wanted = 0.04 / (1 + (turns / 8) ** 2) * 0.02 / 0.03 * share
    assert moved.extra[-2] == pytest.approx(wanted, rel=1e-6)
    assert moved.extra[-1] == pytest.approx(-0.015 * 0.5 / 0.51 * share, rel=1e-6)
    assert not moved.extra[:-2].any()


def test_tune_writes_tables_that_commands_take(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "text": text_folder,
        "start": "yarn",
        "tasks": (),
        "device": "cpu",
        "search": "layers",
    }
    found = ropewalk.tune(
        model_folder, target="4x", budget=2, amounts=Amounts(4, 0, 3, 0), output=tmp_path / "run", **settings
    )
    assert found.map == tmp_path / "run" / "layers.json"
    kept = read_map(found.map)
    assert isinstance(kept.plan, LayerTables)
    assert kept.plan.inv_freq.shape == (2, kept.geometry.half_dim)
    assert kept.fitted["by"] == "ropewalk tune --search layers"
    assert kept.fitted["after"]["objective"] <= kept.fitted["before"]["objective"]
    # The best single table stands beside it, and inside the window nothing changed.
    table = ropewalk.FrequencySchedule.from_json(json.loads(found.schedule.read_text()))
    assert np.array_equal(table.inv_freq, ropewalk.schedule("yarn", kept.geometry, factor=4.0).inv_freq)
    assert found.after["loss_in_window"] == pytest.approx(found.controls["unmodified_in_window"], abs=1e-6)
    assert found.before["loss_in_window"] != pytest.approx(found.controls["unmodified_in_window"], abs=1e-3)
    screen = Console(record=True, width=300)
    show(screen, "MODEL", found)
    shown = screen.export_text()
    assert "Layers: loss at the target" in shown
    assert (
        f"Layers are Ropewalk's own: ropewalk generate MODEL --prompt-file FILE --schedule {found.map}"
        in shown
    )
    assert f"the best single table: ropewalk extend MODEL --schedule {found.schedule} -o OUT" in shown
    model = ropewalk.load_model(str(model_folder), device="cpu")
    ids = torch.arange(200)[None] % 250
    done = ropewalk.generate(
        model, ids[0, :150].tolist(), schedule=found.map, max_new_tokens=3, stop_at_end=False
    )
    written = ids[:, :150]
    with applied(model, kept.plan), torch.no_grad():
        for _ in range(3):
            written = torch.cat([written, model(input_ids=written).logits[:, -1:].argmax(-1)], dim=1)
    assert list(done.ids) == written[0, 150:].tolist()
    with pytest.raises(UsageError, match="position map"):
        ropewalk.extend(model_folder, schedule=found.map, out=tmp_path / "no")
    with pytest.raises(UsageError, match="one target"):
        ropewalk.tune(model_folder, ladder=(2, 4), **settings)


def test_a_fit_that_does_not_beat_its_start_is_not_kept(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lowest of all on validation, and still refused: what the guard says counts.
    fitted = []

    def lower(job: Any, rung: Any, family: Any) -> Any:
        fitted.append(family)
        return replace(rung.before, value=-1.0)

    monkeypatch.setattr("ropewalk.search.loop.measure", lower)
    monkeypatch.setattr(map_fit, "measure", lower)
    held: list[Any] = []

    def refuse(*given: Any) -> str:
        held.extend(given)
        return "it loses keys"

    monkeypatch.setattr(map_fit, "reason_to_keep_start", refuse)
    found = ropewalk.tune(
        model_folder,
        target="4x",
        budget=1,
        amounts=Amounts(4, 0, 3, 0),
        output=tmp_path / "run",
        text=text_folder,
        start="yarn",
        tasks=(),
        device="cpu",
        search="layers",
    )
    kept = read_map(found.map)
    assert fitted
    assert kept.fitted["kept_start"] == "it loses keys"
    assert "yarn is kept: it loses keys" in found.remarks
    start = LayerTables.of(ropewalk.schedule("yarn", kept.geometry, factor=4.0), 2)
    assert kept.plan.to_json() == start.to_json()
    guard, refused, _ = held
    np.testing.assert_allclose(guard.subject.to_json()["inv_freq"], start.to_json()["inv_freq"], rtol=1e-12)
    assert refused.to_json() == fitted[-1].plan().to_json()


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    geometry = the_family().geometry
    plan = the_family().plan().to_json()
    document = {
        "format": "ropewalk-map/1",
        "map": plan,
        "geometry": geometry.to_json(),
        "target_length": 256,
        "nearest_table": ropewalk.schedule("yarn", geometry, factor=4.0).to_json(),
    }
    file = tmp_path / "layers.json"
    file.write_text(json.dumps(document))
    assert read_map(file).plan.to_json() == plan
    for name, wrong in (
        ("logits", [1.0]),
        ("logits", 1.0),
        ("inv_freq", [[1.0], [1.0, 2.0]]),
        ("inv_freq", [[float("nan")] * len(plan["inv_freq"][0])] * 2),
        ("original_length", None),
        ("original_length", 2 * WINDOW),
    ):
        file.write_text(json.dumps(document | {"map": plan | {name: wrong}}))
        with pytest.raises(DamagedError, match=r"layers\.json"):
            read_map(file)


def test_what_no_map_can_serve_is_refused_before_anything_is_searched(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*given: Any) -> None:
        raise AssertionError("a search began")

    monkeypatch.setattr("ropewalk.search.tune.skilled_tasks", searched)
    shared: dict[str, Any] = {"text": text_folder, "target": "4x", "device": "cpu"}
    sliding = eval_models.save(tmp_path / "sliding", make_model("mistral", sliding_window=16))
    stretched = tmp_path / "stretched"
    ropewalk.extend(save_model(tmp_path / "plain"), method="linear", factor=2, out=stretched)
    for search in ("zones", "layers"):
        with pytest.raises(UsageError, match="nothing to map"):
            ropewalk.tune(sliding, search=search, output=tmp_path / "run", **shared)
        with pytest.raises(UsageError, match=f"{search} keeps distances .* stretched already"):
            ropewalk.tune(stretched, search=search, output=tmp_path / "run", **shared)
    assert not (tmp_path / "run").exists()
