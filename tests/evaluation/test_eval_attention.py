"""Zones, maps and caches as rows: each is measured as the plain loop over its context manager would measure it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from eval_models import save, text_ids, tiny

import ropewalk
from ropewalk.attention.maps import applied
from ropewalk.attention.tempers import parse_temper
from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.attended import mapped
from ropewalk.evaluation.compare import compare
from ropewalk.evaluation.evaluate import evaluate
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.local import Local
from ropewalk.map_files import map_file, nearest_table
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.position_maps import map_for
from ropewalk.text.corpus import read_documents
from ropewalk.text.segments import cut


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("attention")
    text = folder / "text"
    text.mkdir()
    for number in range(3):
        ids = text_ids(300, seed=number)[0] % 60 + 32
        (text / f"{number}.txt").write_text(bytes(ids.tolist()).decode())
    return save(folder / "model", tiny(std=0.3)), text


def test_a_map_as_a_candidate_is_the_map() -> None:
    model, ids = tiny(std=0.3), text_ids(200)
    facts = read_facts(model.config.to_dict())
    engine = Engine(model)
    plain = engine.nll(ids)
    with applied(model, map_for("self-extend", facts.geometry, 256)):
        wanted = engine.nll(ids)
    candidate = mapped("self-extend", facts, 256)
    assert (candidate.name, candidate.kind) == ("self-extend", "position-map")
    assert mapped("zones", facts, 256).kind == "zones"
    with candidate.apply(model):
        assert np.array_equal(engine.nll(ids), wanted)
    assert np.array_equal(engine.nll(ids), plain)
    assert not np.allclose(wanted, plain, atol=1e-2)


def test_over_a_stretched_model_a_map_starts_from_the_original_rotation() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    stretched, plain = tiny(std=0.3, rope_parameters=rope, max_position_embeddings=128), tiny(std=0.3)
    facts, ids = read_facts(stretched.config.to_dict()), text_ids(150)
    assert facts.original_length == 64
    with mapped("zones", facts, 256).apply(stretched):
        found = Engine(stretched).nll(ids)
    with applied(plain, map_for("zones", facts.geometry, 256)):
        assert np.allclose(found, Engine(plain).nll(ids), atol=1e-5)


def test_rows_of_a_comparison(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = made
    given = {"target": 256, "text": text, "tasks": "ppl", "max_segments": 3, "output": tmp_path / "run"}
    result = compare(folder, methods="linear,zones,rerope", **given)
    assert {row.name: row.kind for row in result.methods} == {
        "linear": "schedule",
        "zones": "zones",
        "rerope": "position-map",
    }
    losses = {row.name: row.loss_at_target for row in result.methods}
    assert len(set(losses.values())) == 3
    inside = {row.name: row.loss_in_window for row in result.methods}
    assert inside["rerope"] == pytest.approx(result.controls["unmodified"].loss_in_window, abs=0.5)
    # Under zones a query inside the window has no far zone.
    assert inside["zones"] == pytest.approx(result.controls["unmodified"].loss_in_window, abs=1e-6)
    beside = json.loads((tmp_path / "run" / "parts" / "zones-nearest-table.json").read_text())
    facts = read_facts(folder)
    plan = map_for("zones", facts.geometry, 256)
    assert beside["schedule"] == nearest_table(plan, facts.geometry, 256).to_json()
    ropewalk.extend(
        folder, schedule=tmp_path / "run" / "parts" / "zones-nearest-table.json", out=tmp_path / "extended"
    )
    with pytest.raises(UsageError, match="zonse"):
        compare(folder, methods="zonse", **given)
    # A map in a file is the row that it was made from.
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(map_file(plan, facts.geometry, 256).to_json()))
    again = compare(folder, methods="none", schedules=[file], **(given | {"output": tmp_path / "again"}))
    assert [(row.name, row.kind, row.file) for row in again.methods] == [("mine", "zones", str(file))]
    assert again.methods[0].loss_at_target == losses["zones"]
    asked = {"text": text, "tasks": "ppl", "max_segments": 3}
    alone = evaluate(folder, schedule=file, **asked)
    assert alone.lengths[-1] == 256
    assert alone.loss[-1].tail_loss == pytest.approx(losses["zones"], abs=1e-6)
    assert alone.controls.unmodified_is == "the same model without the map"
    plain = result.controls["unmodified"].loss_at_target
    assert alone.controls.unmodified[-1].tail_loss == pytest.approx(plain, abs=1e-6)
    assert abs(plain - losses["zones"]) > 1e-3
    with pytest.raises(UsageError, match="measured without a map"):
        evaluate(folder, schedule=file, cache="q8", **asked)


def test_temperatures_beside_the_models_own(made: tuple[Path, Path]) -> None:
    folder, text = made
    given = {"lengths": [64, 256], "tasks": "ppl", "text": str(text), "max_segments": 2}
    result = evaluate(folder, temperatures="log-n,constant:1.2", **given)
    rows = {row["name"]: {part["length"]: part for part in row["loss"]} for row in result.temperatures}
    assert list(rows) == ["log-n", "constant:1.2"]
    model = load_model(folder)
    engine = Engine(model)
    ids = [item.ids for item in cut(read_documents(str(text)), load_tokenizer(folder), 256, limit=2).items]
    plain = np.mean([engine.nll(row)[0].numpy()[-64:].mean() for row in ids])
    with parse_temper("log-n").applied(model, 4.0, 64):
        warm = np.mean([engine.nll(row)[0].numpy()[-64:].mean() for row in ids])
    assert rows["log-n"][256]["against_full"] == pytest.approx(warm - plain, abs=1e-4)
    assert abs(rows["log-n"][64]["against_full"]) < 1e-6 < abs(rows["constant:1.2"][64]["against_full"])
    with pytest.raises(UsageError, match="temperature 'warm' is unknown"):
        evaluate(folder, temperatures="warm", **given)
    # A difference, whose interval stands around it on both sides of zero.
    three = evaluate(folder, temperatures="constant:0.1", **(given | {"max_segments": 3}))
    brought = three.temperatures[0]["loss"][-1]
    assert brought["ci"][0] < 0 < brought["ci"][1]
    assert sum(brought["ci"]) / 2 == pytest.approx(brought["against_full"], abs=1e-9)


def test_caches_beside_the_full_one(made: tuple[Path, Path]) -> None:
    folder, text = made
    result = evaluate(
        folder, lengths=[128, 256], tasks="ppl", text=str(text), max_segments=3, cache="q8,q2,sinks:4+60"
    )
    rows = {row["name"]: {part["length"]: part for part in row["loss"]} for row in result.caches}
    assert list(rows) == ["q8", "q2", "sinks:4+60"]
    full = {row.length: row.tail_loss for row in result.loss}
    for parts in rows.values():
        for length, part in parts.items():
            assert part["tail_loss"] - full[length] == pytest.approx(part["against_full"], abs=1e-5)
    # Up to 127 tokens nothing is rounded; 64 fit sinks and window.
    assert abs(rows["q2"][128]["against_full"]) < 1e-4
    assert abs(rows["q8"][256]["against_full"]) < abs(rows["q2"][256]["against_full"])
    assert abs(rows["sinks:4+60"][128]["against_full"]) > 1e-3
    with pytest.raises(UsageError, match="cache 'q5' is unknown"):
        evaluate(folder, lengths=[128], tasks="ppl", text=str(text), cache="q5")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"temperatures": "warm"}, "temperature 'warm' is unknown"),
        ({"cache": "q8,full-of-holes"}, "full-of-holes"),
        ({"health": True, "tasks": "passkey"}, "health is measured on text"),
    ],
)
def test_what_is_measured_last_is_refused_before_anything_is_read(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, asked: dict[str, object], said: str
) -> None:
    read: list[object] = []
    monkeypatch.setattr(Local, "measure", lambda self, candidate, **how: read.append(candidate))
    given = {"lengths": [256], "tasks": "ppl", "text": str(made[1]), "max_segments": 1} | asked
    with pytest.raises(UsageError, match=said):
        evaluate(made[0], **given)
    assert read == []
