"""Zones fitted by gradient: derivatives against differences, the files, and what each command makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from search_models import WINDOW, make_model

import ropewalk
from ropewalk.attention.maps import applied
from ropewalk.cli.tune import show
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.map_files import read_map
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import Zones, map_for
from ropewalk.search import map_fit
from ropewalk.search.fit import Settings, State, advance
from ropewalk.search.objective import Objective, Terms, usual, weigh
from ropewalk.search.reading import Reader, Slope
from ropewalk.search.rows import Amounts, Row
from ropewalk.search.sweep import Measured
from ropewalk.search.zones import ZoneFamily, offered

FEW = Amounts(4, 0, 3, 0)


def the_family(model: Any, heads: tuple[int, int] = (0, 0)) -> ZoneFamily:
    """Numbers away from every closed form."""
    geometry = read_facts(model.config.to_dict()).geometry
    plan = map_for(
        "zones", geometry, 4 * WINDOW, near=24, far_method="by-parts", discount=0.0, log_discount=0.6
    )
    assert isinstance(plan, Zones)
    family = ZoneFamily.at(geometry, plan, heads)
    # Well inside the bounds of each, so that a test may move them a little.
    apart = np.random.default_rng(9).normal(size=family.extra.shape) * np.repeat(
        [0.2, 0.2, 0.05], family.heads[0].size
    )
    return family.moved(family.low, family.top * 0.8, 0.6, 0.1).with_extra(apart)


def test_a_family_is_the_map_that_it_starts_at() -> None:
    geometry = read_facts(make_model().config.to_dict()).geometry
    for candidate in offered(geometry, 256):
        family = ZoneFamily.at(geometry, candidate.plan)
        made = family.plan()
        np.testing.assert_allclose(made.far_inv_freq, candidate.plan.far_inv_freq, rtol=1e-12)
        assert (made.near, made.log_discount, made.far_logits) == (
            candidate.plan.near,
            candidate.plan.log_discount,
            1,
        )
        assert made.far_factor == pytest.approx((256 - made.near) / (WINDOW - made.near))
        assert (
            ZoneFamily.from_json(geometry, json.loads(json.dumps(family.to_json()))).plan().to_json()
            == made.to_json()
        )
    assert {item.plan.near for item in offered(geometry, 256)} == {16, 32, 48}
    moved = family.moved(family.low, family.top[::-1], 9.0, -9.0)
    assert (moved.cool, moved.heat, moved.near) == (3.0, -0.5, family.near)
    assert (np.diff(moved.top) >= 0).all()


def test_the_gradient_is_the_slope_of_the_objective() -> None:
    model = make_model().double()
    config = model.config
    family = the_family(model, (config.num_hidden_layers, config.num_attention_heads))
    rows = weigh([Row(np.random.default_rng(3).integers(0, 200, 150))], WINDOW, Objective())
    with Reader(model, checkpointing=False) as reader:
        slope = reader.slopes(family, family.highest, [rows])[0]

        def value(other: ZoneFamily) -> float:
            return reader.terms(other.plan(), rows).value

        assert slope.value == pytest.approx(value(family), rel=1e-5)
        # Losses are float32, so that a small step drowns in their rounding.
        step = 1e-2
        for name, found in (("cool", slope.cool), ("heat", slope.heat)):
            ends = [value(replace(family, **{name: getattr(family, name) + way})) for way in (step, -step)]
            assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2, abs=2e-5)
        direction = np.random.default_rng(1).normal(size=len(family.top))
        ends = [value(replace(family, top=family.top + way * direction)) for way in (step, -step)]
        assert float(slope.top @ direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2)
        # Each head's own numbers, and together they are the shared one's.
        for place in range(len(family.extra)):
            # Losses are float32: one head of many moves them little.
            one = np.eye(len(family.extra))[place] * 0.05
            ends = [value(family.with_extra(family.extra + way * one)) for way in (1, -1)]
            assert slope.extra[place] == pytest.approx((ends[0] - ends[1]) / 0.1, rel=2e-2, abs=2e-5)
        assert slope.extra.reshape(3, -1)[:2].sum(1) == pytest.approx([slope.cool, slope.heat], rel=1e-6)
        # Without heads the shared numbers stand alone.
        alone = reader.slopes(replace(family, heads=np.zeros((3, 0, 0))), family.highest, [rows])[0]
        alike = reader.slopes(family.with_extra(0 * family.extra), family.highest, [rows])[0]
        assert not alone.extra.size
        assert [alone.cool, alone.heat] == pytest.approx([alike.cool, alike.heat], rel=1e-6)
    assert not slope.low.any()
    with Reader(make_model().double(), checkpointing=True) as again:
        assert np.allclose(again.slopes(family, family.highest, [rows])[0].flat, slope.flat, rtol=1e-4)


def test_heads_are_kept_in_bounds_and_on_disk() -> None:
    family = the_family(make_model(), (2, 3))
    wide = family.with_extra(np.array([5.0, -5.0, 0.5, 0, 0, 0] * 2 + [1.0, -1.0, 0.2, 0, 0, 0]))
    plan = wide.plan()
    np.testing.assert_allclose(plan.head_sharpness, [[0.35, -0.35, 0.2], [0, 0, 0]])
    np.testing.assert_allclose(plan.head_log_discount, [[3.6, -2.4, 1.1], [0.6, 0.6, 0.6]])
    np.testing.assert_allclose(np.log(plan.head_far_logits), [[0.8, -0.6, 0.6], [0.1, 0.1, 0.1]])
    assert wide.extra_rates.tolist() == [0.15] * 6 + [0.06] * 6 + [0.03] * 6
    again = ZoneFamily.from_json(wide.geometry, json.loads(json.dumps(wide.to_json())))
    assert again.plan().to_json() == plan.to_json()
    alike = the_family(make_model()).plan()
    assert alike.head_log_discount is None
    assert alike.head_far_logits is None
    assert alike.head_sharpness is None


def test_a_step_moves_each_head_by_its_own_gradient() -> None:
    family = ZoneFamily.at(the_family(make_model()).geometry, the_family(make_model()).plan(), (1, 2))
    count = len(family.top)
    slope = Slope(
        0.0, np.zeros(count), np.zeros(count), 0.0, 0.0, np.array([1.0, -0.5, 0.0, 0.02, 0.0, -0.5])
    )
    state, settings = State.at(family), Settings(temper=0.0)
    still = advance(state, family, [slope], 0.0, settings)
    # One gradient cannot be told from noise; of two alike a mean of 0.92 and noise 1 / 24 leave this share.
    assert not still.family.extra.any()
    moved = advance(still, family, [slope], 0.0, settings).family
    share = 1 - (1 / 24) * (1 + 0.92**2) / (1 - 0.92**2)
    wanted = -share * np.array(
        [0.15 / 1.01, -0.15 * 0.5 / 0.51, 0.0, 0.06 * 0.02 / 0.03, 0.0, -0.03 * 0.5 / 0.51]
    )
    np.testing.assert_allclose(moved.extra, wanted, rtol=1e-6)
    assert (moved.cool, moved.heat, moved.near) == (family.cool, family.heat, family.near)


def test_tune_writes_zones_and_the_single_table_beside_them(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_fit, "offered", lambda *asked: offered(*asked)[:2])
    settings = {
        "target": "4x",
        "text": text_folder,
        "start": "yarn",
        "tasks": (),
        "amounts": FEW,
        "device": "cpu",
    }
    found = ropewalk.tune(
        model_folder,
        search="zones",
        budget=2,
        settings=Settings(learning_rate=0.2),
        output=tmp_path / "run",
        **settings,
    )
    assert found.map == tmp_path / "run" / "zones.json"
    kept = read_map(found.map)
    assert (kept.target_length, found.start) == (256, "yarn")
    table = ropewalk.FrequencySchedule.from_json(json.loads(found.schedule.read_text()))
    assert kept.nearest.to_json() == table.to_json()
    assert np.array_equal(table.inv_freq, ropewalk.schedule("yarn", kept.geometry, factor=4.0).inv_freq)
    assert "Zones: loss at the target" in found.verdict()
    screen = Console(record=True, width=300)
    show(screen, "MODEL", found)
    shown = screen.export_text()
    assert f"generate MODEL --prompt-file FILE --schedule {found.map}" in shown
    assert f"compare MODEL --target 256 --schedule {found.map}" in shown
    assert f"extend MODEL --schedule {found.schedule} -o OUT" in shown
    assert [row["name"] for row in found.rows()] == ["zones", "yarn"]
    assert kept.fitted["start"] in {item.name for item in offered(kept.geometry, 256)}
    assert kept.fitted["after"]["objective"] <= kept.fitted["before"]["objective"]
    assert kept.fitted["single_table"]["name"] == "yarn"
    assert kept.fitted["objective"] == usual("zones").to_json()
    for name in ("head_log_discount", "head_far_logits", "head_sharpness"):
        assert getattr(kept.plan, name).shape == (2, 4)
    # What is in the file is what was measured.
    model = ropewalk.load_model(str(model_folder), device="cpu")
    ids = torch.arange(200)[None] % 250
    with applied(model, kept.plan), torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    with Reader(model) as reader:
        losses, _ = reader.read(kept.plan, [ids[0].numpy()])
    plain = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    np.testing.assert_allclose(losses[0][1:], plain.numpy(), rtol=1e-5, atol=1e-5)
    # Stock programs get the table; the map itself is refused in words.
    with pytest.raises(UsageError, match="position map"):
        ropewalk.extend(model_folder, schedule=found.map, out=tmp_path / "no")
    ropewalk.extend(model_folder, schedule=found.schedule, out=tmp_path / "out")
    done = ropewalk.generate(
        model, ids[0, :150].tolist(), schedule=found.map, max_new_tokens=3, stop_at_end=False
    )
    assert (done.factor, done.window) == (4.0, 256)
    with pytest.raises(UsageError, match="one target"):
        ropewalk.tune(model_folder, search="zones", ladder=(2, 4), **(settings | {"target": None}))


def test_an_interrupted_fit_leaves_its_map_and_goes_on(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*given: Any) -> None:
        raise KeyboardInterrupt

    def again(name: str = "run") -> Any:
        return ropewalk.tune(
            model_folder,
            target="2x",
            search="zones",
            text=text_folder,
            start="yarn",
            tasks=(),
            amounts=Amounts(4, 0, 5, 0),
            device="cpu",
            budget=1,
            output=tmp_path / name,
        )

    # The start is the lowest on validation, wherever the sweep put it.
    own, lowest = Reader.terms, 0

    def biased(self: Reader, subject: Any, rows: Any, *rest: Any) -> Terms:
        found = own(self, subject, rows, *rest)
        on_validation = isinstance(subject, Zones) and len(rows) == 5
        asked.append(subject) if on_validation else None
        return replace(found, value=float(len(asked) - 1 != lowest)) if on_validation else found

    for lowest in (0, 1):
        asked: list[Zones] = []
        with monkeypatch.context() as patch:
            patch.setattr(map_fit, "offered", lambda *given: offered(*given)[:2])
            patch.setattr(map_fit, "run_fit", cut)
            patch.setattr(Reader, "terms", biased)
            with pytest.raises(KeyboardInterrupt):
                again(f"start {lowest}")
        kept = read_map(tmp_path / f"start {lowest}" / "zones.json")
        assert kept.plan.to_json() == asked[lowest].to_json()
        assert kept.fitted["before"]["objective"] == 0.0

    monkeypatch.setattr(map_fit, "offered", lambda *asked: offered(*asked)[:1])
    with monkeypatch.context() as patch:
        patch.setattr(map_fit, "run_fit", cut)
        with pytest.raises(KeyboardInterrupt):
            again()
    left = read_map(tmp_path / "run" / "zones.json")
    assert left.fitted["kept_start"] == "no step of the fit beat it on validation"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["complete"] is False
    assert again().steps == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["complete"] is True


def _measured(name: str, value: float, *hits: float) -> Measured:
    return Measured(name, None, Terms(value, [], None, None, None, None, None, {"kv": list(hits)}))


def test_what_is_kept_finds_what_the_single_table_finds() -> None:
    rows = [_measured("low", 1.0, 0, 0, 1), _measured("finds", 1.2, 0, 1, 1), _measured("more", 1.1, 1, 1, 1)]
    # One answer fewer is noise, two of three are not.
    for found, kept in (((0, 0, 1), "low"), ((0, 1, 1), "low"), ((1, 1, 1), "more")):
        assert map_fit.finds_like_the_table(rows, _measured("table", 9.0, *found).terms).name == kept
    rows[1:] = [_measured("finds", 1.2, 0, 1, 0)]
    assert map_fit.finds_like_the_table(rows, _measured("table", 9.0, 1, 1, 1).terms).name == "low"
    rows[0] = _measured("low", 1.0, 0, 0, 0)
    assert map_fit.finds_like_the_table(rows, _measured("table", 9.0, 1, 1, 1).terms).name == "finds"


def test_a_damaged_map_is_named(tmp_path: Path) -> None:
    file = tmp_path / "zones.json"
    for text in (
        "{",
        "[]",
        '{"format": "ropewalk-map/1"}',
        '{"format": "ropewalk-map/1", "map": {"name": "x"}}',
    ):
        file.write_text(text)
        with pytest.raises(RopewalkError, match=r"zones\.json"):
            read_map(file)
    with pytest.raises(RopewalkError, match="cannot read"):
        read_map(tmp_path / "none.json")
