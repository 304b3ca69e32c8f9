"""`models/stretch`: the one answer to "what was asked for", used by every command that stretches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropewalk
from ropewalk.dynamic import DynamicRule
from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.models.facts import read_facts
from ropewalk.models.stretch import (
    already_reaches,
    kept_parameters,
    ladder_document,
    own_stretch,
    read_schedules,
    stretch_for,
)

PLAIN = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
}
YARN = PLAIN | {
    "max_position_embeddings": 4096,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 16.0,
        "attention_factor": 1.25,
        "original_max_position_embeddings": 1024,
    },
}
LLAMA3 = PLAIN | {
    "max_position_embeddings": 8192,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
}


def _linear(factor: float) -> list[float]:
    return [10000.0 ** (-2 * i / 64) / factor for i in range(32)]


def _file(tmp_path: Path, document: Any, name: str = "schedule.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_method_with_a_target_a_factor_or_both():
    facts = read_facts(PLAIN)
    for asked, length in (
        ({"target": "8k"}, 8192),
        ({"target": "8x"}, 8192),
        ({"factor": 8}, 8192),
        ({"factor": 8, "target": 5000}, 5000),
    ):
        made = stretch_for(facts, "linear", **asked)
        assert made.target_length == length
        assert np.allclose(made.schedule.inv_freq, _linear(8.0), rtol=1e-14)
        assert made.notes == ()


@pytest.mark.parametrize(
    ("method", "asked", "told"),
    [
        ("yarn", {}, "nothing says how far"),
        (None, {"factor": 8}, "without a method"),
        ("yarm", {"factor": 8}, "yarm"),
        ("yarn", {"factor": 8, "parameters": {"beta": 1}}, "beta"),
    ],
)
def test_an_incomplete_question_is_refused(method, asked, told):
    with pytest.raises(UsageError, match=told):
        stretch_for(read_facts(PLAIN), method, **asked)


def test_factor_one_says_that_nothing_is_stretched():
    assert "nothing is stretched" in stretch_for(read_facts(PLAIN), "linear", target="1x").notes[-1]


def test_yarn_on_yarn_keeps_the_files_betas_and_says_so():
    facts = read_facts(YARN)
    made = stretch_for(facts, "yarn", factor=8)
    assert made.schedule.parameters["beta_fast"] == 16.0
    assert made.schedule.geometry.original_length == 1024
    replaced, kept = made.notes
    assert "replaces it" in replaced
    assert "original 1024 tokens" in replaced
    assert kept == "kept from the model's own scaling: beta_fast=16.0"
    assert kept_parameters(facts)["yarn"]["beta_fast"] == 16.0
    own = stretch_for(facts, "yarn", factor=8, parameters={"beta_fast": 24.0})
    assert own.schedule.parameters["beta_fast"] == 24.0
    # The file's attention factor was that of factor 4.
    assert "attention_factor" not in own.schedule.parameters
    assert made.schedule.attention_factor == pytest.approx(0.1 * np.log(8) + 1)
    assert not any("kept" in note for note in own.notes)
    assert kept_parameters(read_facts(LLAMA3)) == kept_parameters(read_facts(PLAIN)) == {}
    # Another method has other parameters: nothing of YaRN's goes into it.
    assert stretch_for(facts, "linear", factor=8).schedule.parameters == {}


def test_the_files_own_scaling_is_a_stretch_too():
    made = own_stretch(read_facts(YARN))
    assert (made.schedule.method, made.schedule.factor, made.target_length) == ("yarn", 4.0, 4096)
    with pytest.raises(RopewalkError, match="asks for no scaling"):
        own_stretch(read_facts(PLAIN))


@pytest.mark.parametrize("config", [YARN, LLAMA3])
def test_a_scaled_model_already_reaches_up_to_its_declared_window(config):
    facts = read_facts(config)
    window = config["max_position_embeddings"]
    assert already_reaches(facts, 2048)
    words = already_reaches(facts, window)
    assert words
    assert words.startswith(f"it already reaches {window // 1024}k: the file stretches 1k to")
    assert already_reaches(facts, window + 1) is None


def test_an_unscaled_model_reaches_nothing_beyond_its_window():
    assert already_reaches(read_facts(PLAIN), 1024) is None
    # `linear` of older files leaves the window at its original length: the factor says how far it reaches.
    old = read_facts(PLAIN | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert already_reaches(old, 4096)
    assert already_reaches(old, 4097) is None


def test_a_schedule_file_is_read_with_its_provenance(tmp_path):
    facts = read_facts(PLAIN)
    made = ropewalk.schedule("linear", facts.geometry, factor=4.0)
    bare = _file(tmp_path, made.to_json() | {"fitted": {"model": "x"}})
    inside = _file(tmp_path, {"format": "ropewalk-checkpoint/1", "schedule": made.to_json()}, "manifest.json")
    for path in (bare, inside):
        found = stretch_for(facts, schedule=path)
        assert found.schedule == made
        assert found.target_length == 4096
    assert read_schedules(bare).fitted == {"model": "x"}
    assert read_schedules(inside).fitted is None
    beyond = stretch_for(facts, schedule=bare, target="8k")
    assert beyond.target_length == 8192
    assert beyond.notes == ("the window declared, 8k, is beyond the 4k that the schedule is made for",)
    shorter = stretch_for(facts, schedule=made, target="2k")
    assert (shorter.target_length, shorter.notes) == (2048, ())


def test_a_finished_schedule_leaves_nothing_to_choose(tmp_path):
    facts = read_facts(PLAIN)
    made = ropewalk.schedule("linear", facts.geometry, factor=4.0)
    for extra in ({"factor": 4}, {"parameters": {"beta_fast": 1}}):
        with pytest.raises(UsageError, match="nothing to choose"):
            stretch_for(facts, schedule=made, **extra)


def test_a_ladder_gives_the_lowest_rung_that_reaches(tmp_path):
    facts = read_facts(PLAIN)
    rungs = [ropewalk.schedule("linear", facts.geometry, factor=factor) for factor in (8.0, 2.0, 4.0)]
    path = _file(tmp_path, ladder_document(rungs, {"loss": 1.5}))
    ladder = read_schedules(path)
    assert [rung.factor for rung in ladder.rungs] == [2.0, 4.0, 8.0]
    assert ladder.fitted == {"loss": 1.5}
    assert ladder.is_ladder
    for asked, factor, length in (
        ({"target": "2k"}, 2.0, 2048),
        ({"target": 2049}, 4.0, 2049),
        ({"factor": 3}, 4.0, 4096),
        ({}, 8.0, 8192),
    ):
        found = stretch_for(facts, schedule=path, **asked)
        assert (found.schedule.factor, found.target_length) == (factor, length)
        assert np.allclose(found.schedule.inv_freq, _linear(factor), rtol=1e-14)
    with pytest.raises(UsageError, match=r"schedule\.json: its ladder ends at factor 8"):
        stretch_for(facts, schedule=path, target="9x")


def test_a_schedule_for_another_geometry_is_refused_by_the_files_name(tmp_path):
    other = ropewalk.RopeGeometry(head_dim=64, rope_theta=500000.0, original_length=1024)
    path = _file(tmp_path, ropewalk.schedule("linear", other, factor=4.0).to_json(), "other.json")
    with pytest.raises(
        UsageError, match=r"other\.json was made for another geometry .*rope_theta=500000, 32 pairs"
    ):
        stretch_for(read_facts(PLAIN), schedule=path)


def _bad_rung(ladder: dict[str, Any]) -> dict[str, Any]:
    ladder["rungs"][0]["factor"] = 3.0
    return ladder


def test_damaged_schedule_files_are_named(tmp_path):
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=1024)
    wider = ropewalk.RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=2048)
    two = ropewalk.schedule("linear", geometry, factor=2.0)
    four = ropewalk.schedule("linear", wider, factor=4.0)
    document = two.to_json()
    for number, (content, told) in enumerate(
        [
            ("{", "is not JSON"),
            ("[1]", "not a schedule"),
            ("{}", "not a schedule of this version"),
            (json.dumps(document | {"inv_freq": document["inv_freq"][:-1]}), "has shape"),
            (json.dumps({"format": "ropewalk-ladder/1", "rungs": []}), "has no rungs"),
            (json.dumps(_bad_rung(ladder_document([two]))), "not that of its schedule"),
            (json.dumps(ladder_document([two, four])), "share one geometry"),
            (json.dumps(ladder_document([two, two])), "differ in factor"),
        ]
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DamagedError, match=told) as caught:
            read_schedules(path)
        assert f"{number}.json" in caught.value.message
    with pytest.raises(RopewalkError, match="cannot read"):
        read_schedules(tmp_path / "nowhere.json")


def test_extend_says_that_a_scaled_model_already_reaches(llama, tmp_path, cli):
    first = tmp_path / "first"
    assert cli("extend", llama, "--factor", "8", "-o", first).code == 0
    for target in ("256", "512"):
        refused = cli("extend", first, "--target", target, "-o", tmp_path / "second", "--json")
        assert refused.code == 1
        assert "it already reaches" in refused.json["error"]["message"]
        assert "--replace" in refused.json["error"]["hint"]
        assert not (tmp_path / "second").exists()
    done = cli("extend", first, "--target", "256", "--replace", "-o", tmp_path / "second", "--json")
    assert done.code == 0, done.err
    assert done.json["schedule"]["factor"] == 4.0
    assert "--replace" in done.json["command"]
    config = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == 256


def test_extend_takes_a_rung_of_a_ladder_and_refuses_another_models_schedule(llama, tmp_path, cli):
    geometry = ropewalk.read_geometry(llama)
    rungs = [ropewalk.schedule("ntk-su", geometry, factor=factor) for factor in (2.0, 4.0)]
    ladder = _file(tmp_path, ladder_document(rungs))
    done = cli("extend", llama, "--schedule", ladder, "--target", "100", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["schedule"]["inv_freq"] == rungs[0].inv_freq.tolist()
    assert done.json["target_length"] == 100
    refused = cli("extend", "hemp", "--schedule", ladder, "-o", tmp_path / "two", "--json")
    assert refused.code == 2
    assert "schedule.json was made for another geometry" in refused.json["error"]["message"]


@pytest.mark.parametrize("method", ["yarn", "resonance"])
@pytest.mark.parametrize("name", ["name", "geometry", "factor", "target_length"])
def test_the_stretch_is_no_parameter_of_a_method(method, name):
    facts = read_facts(PLAIN)
    for ask in (
        lambda: stretch_for(facts, method, factor=2.0, parameters={name: 3.0}),
        lambda: DynamicRule(method, facts.geometry, 2.0, {name: 3.0}),
    ):
        with pytest.raises(UsageError, match=f"{name} is no parameter of method '{method}'"):
            ask()
