"""`ropewalk verify`: passes what is right, and names what is wrong."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import ropewalk
from ropewalk.models.checkpoint.manifest import read_manifest
from ropewalk.models.config import read_config
from ropewalk.models.facts import read_facts
from ropewalk.models.load import quiet_transformers
from ropewalk.models.proof import probe
from ropewalk.models.proof.checks import Outcome, compare_runs, dialects, frequencies, weights_of
from ropewalk.models.proof.original import original_of
from ropewalk.models.proof.stock import StockRun
from ropewalk.models.verify import NAMES

Call = Callable[..., Any]
PLAIN = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
}


def _extended(llama: Path, out: Path, method: str = "yarn", **options: Any) -> Path:
    return ropewalk.extend(llama, out=out, target="8x", method=method, **options).output


def _statuses(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in document["checks"]}


def _edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")


def test_a_sound_checkpoint_passes_every_check_and_exits_0(llama: Path, tmp_path: Path, cli: Call) -> None:
    out = _extended(llama, tmp_path / "out", "mrrope-pro")
    done = cli("verify", out, "--json")
    assert done.code == 0, done.json
    assert _statuses(done.json) == dict.fromkeys(NAMES, "pass")
    assert "96 tokens in a row" in done.json["used"]
    assert done.json["base"] == str(llama)


def test_scaling_that_is_silently_off_and_other_weights_fail_by_name_with_exit_4(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = _extended(llama, tmp_path / "out", weights="copy")
    _edit(
        out / "config.json",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rope_scaling=None,
    )
    shard = sorted(out.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-4:] = struct.pack("<f", 0.5)
    shard.write_bytes(bytes(content))
    done = cli("verify", out, "--json")
    assert done.code == 4
    statuses = _statuses(done.json)
    assert statuses["active"] == statuses["weights"] == statuses["stock-parity"] == "fail"
    details = {check["name"]: check["detail"] for check in done.json["checks"]}
    assert "scaling is off" in details["active"]
    assert shard.name in details["weights"]


def test_without_its_base_a_checkpoint_is_checked_on_its_own_weights_across_a_gap(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _extended(llama, tmp_path / "out")
    shutil.rmtree(llama)
    monkeypatch.setitem(probe.BUDGET, "cpu", 0.0)
    done = cli("verify", out, "--json")
    assert done.code == 0, done.json
    assert _statuses(done.json) == dict.fromkeys(NAMES, "pass") | {"weights": "skip"}
    assert "half at the end of the target window" in done.json["used"]


@pytest.mark.slow
def test_a_stock_checkpoint_of_somebody_else_is_checked_without_manifest(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = _extended(llama, tmp_path / "out")
    (out / "ropewalk.json").unlink()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    del config["ropewalk"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = cli("verify", out, "--json")
    assert done.code == 0, done.json
    assert _statuses(done.json)["active"] == _statuses(done.json)["stock-parity"] == "pass"
    table = cli("verify", out, "--base", llama)
    assert table.code == 0
    assert "stock-parity" in table.out


def test_a_checkpoint_without_weights_still_gets_the_checks_that_need_none(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = _extended(llama, tmp_path / "out", weights="none")
    done = cli("verify", out, "--json")
    assert done.code == 4
    assert done.json["passed"] is True
    assert done.json["unproven"] == ["active", "stock-parity", "identity"]
    assert done.complaint.startswith("ropewalk: not shown: active, stock-parity, identity")
    allowed = cli("verify", out, "--allow-unproven", "-q")
    assert (allowed.code, allowed.out) == (0, "")
    statuses = _statuses(done.json)
    assert statuses["dialects"] == statuses["frequencies"] == "pass"
    assert statuses["active"] == statuses["stock-parity"] == "skip"
    assert all(
        "holds no weights" in check["detail"] for check in done.json["checks"] if check["status"] == "skip"
    )


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "mrrope-pro"])
def test_dialects_agree_in_what_extend_writes(method: str, llama: Path, tmp_path: Path) -> None:
    out = _extended(llama, tmp_path / "out", method, weights="none")
    assert dialects(read_config(out)).status == "pass"


def test_a_schedule_that_the_class_does_not_compute_fails_without_any_weights(
    llama: Path, tmp_path: Path
) -> None:
    config = read_config(_extended(llama, tmp_path / "out", weights="none"))
    assert frequencies(config).status == "pass"
    # Our reader takes a share that Llama's class never looks at.
    broken = config | {"rope_scaling": config["rope_scaling"] | {"partial_rotary_factor": 0.5}}
    assert frequencies(broken).status == "fail"
    refused = frequencies(
        config | {"rope_scaling": config["rope_scaling"] | {"rope_type": "yarm", "type": "yarm"}}
    )
    assert refused.status == "skip"


def test_dialects_that_contradict_or_miss_each_other_fail(llama: Path, tmp_path: Path) -> None:
    config = read_config(_extended(llama, tmp_path / "out", weights="none"))
    other = config | {"rope_scaling": config["rope_scaling"] | {"factor": 2.0}}
    assert dialects(other).status == "fail"
    old_base = config | {"rope_theta": 5e5}
    assert dialects(old_base).status == "fail"
    alone = {key: value for key, value in config.items() if key != "rope_scaling"}
    missing = dialects(alone)
    assert missing.status == "fail"
    assert "older readers" in missing.detail


def test_weights_are_compared_by_content_and_by_name(llama: Path, tmp_path: Path) -> None:
    out = _extended(llama, tmp_path / "out", weights="copy")
    original = original_of(out, read_config(out), read_manifest(out), None)
    assert "equal by SHA-256" in weights_of(out, original).detail
    assert weights_of(out, original).status == "pass"
    first, second = sorted(out.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    swapped = weights_of(out, original)
    assert (swapped.status, second.name in swapped.detail) == ("fail", True)


def test_a_damaged_manifest_is_named(llama: Path, tmp_path: Path, cli: Call) -> None:
    out = _extended(llama, tmp_path / "out", weights="none")
    for spoil in (
        {"format": "something else"},
        {"base": {"source": "x"}},
        {"base": {"source": "x", "folder": "/", "config_sha256": "x", "config": {}, "config_file": "../x"}},
    ):
        whole = (out / "ropewalk.json").read_text(encoding="utf-8")
        _edit(out / "ropewalk.json", **spoil)
        done = cli("verify", out)
        assert done.code == 3, done.err
        (out / "ropewalk.json").write_text(whole, encoding="utf-8")
    (out / "ropewalk.json").write_text("{", encoding="utf-8")
    done = cli("verify", out)
    assert done.code == 3
    assert "ropewalk.json" in done.complaint


def test_damaged_weights_are_damage_and_no_missed_gate(llama: Path, tmp_path: Path, cli: Call) -> None:
    out = _extended(llama, tmp_path / "out", weights="copy")
    shard = sorted(out.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    cut = cli("verify", out)
    assert (cut.code, "cut short" in cut.complaint) == (3, True)
    shard.unlink()
    gone = cli("verify", out)
    assert (gone.code, "is missing" in gone.complaint) == (3, True)


def test_equal_logits_past_the_window_are_not_active() -> None:
    facts = read_facts(PLAIN)
    schedule = ropewalk.schedule("ntk", facts.geometry, factor=4.0)
    probes = [probe.Probe("short", (1,), None, 0, 1), probe.Probe("contiguous", (1, 2, 3), None, 0, 1)]
    same = [np.zeros((1, 4)), np.zeros((3, 4))]
    far = [same[0], np.array([[9.0] * 4, [0.0] * 4, [0.0, 0.25, 0.0, 0.0]])]
    for logits, status in ((same, "fail"), (far, "pass")):
        outcome = Outcome(facts, schedule, probes, "cpu", "float32")
        outcome.base = same
        outcome.applied = outcome.after = logits
        outcome.stock = StockRun(logits, {}, (), "5")
        check = compare_runs(outcome)["active"]
        assert check.status == status, check
    # The first token differs by 9 and does not count: it stands before `far_from`.
    assert check.detail == "largest logit difference from the base past 1024 tokens: 0.25"


def test_stock_logits_are_compared_by_bits() -> None:
    facts = read_facts(PLAIN)
    schedule = ropewalk.schedule("ntk", facts.geometry, factor=4.0)
    probes = [probe.Probe("short", (1,), None, 0, 1), probe.Probe("contiguous", (1, 2, 3), None, 0, 1)]
    ours = [np.zeros((1, 4)), np.full((3, 4), 2.0)]
    for apart, status in ((0.0, "pass"), (2.0**-40, "fail")):
        outcome = Outcome(facts, schedule, probes, "cpu", "float32")
        outcome.base = outcome.after = outcome.applied = ours
        outcome.stock = StockRun([ours[0], ours[1] + apart], {}, (), "5")
        check = compare_runs(outcome)["stock-parity"]
        assert check.status == status, check
    assert check.detail == "stock logits differ from in-memory application by up to 9.09e-13"


@pytest.mark.parametrize(
    ("experts", "apart", "status"),
    [
        (0, 0.0, "pass"),
        (0, 1e-6, "fail"),
        (8, 1e-6, "pass"),
        (8, 3e-3, "pass"),
        (8, 5e-3, "fail"),
        (8, 0.1, "fail"),
    ],
)
def test_the_first_token_is_the_bases_to_the_bit_or_to_rounding_with_experts(
    experts: int, apart: float, status: str
) -> None:
    """A thousandth of the base's largest logit, 4 here, is what the order of additions may do."""
    facts = replace(read_facts(PLAIN), experts={"num_experts": experts} if experts else None)
    schedule = ropewalk.schedule("linear", facts.geometry, factor=4.0)
    base = [np.array([[4.0, -1.0, 0.5]]), np.array([[4.0, -1.0, 0.5]] * 3)]
    ours = [base[0] + np.array([[0.0, apart, 0.0]]), base[1] + 1.0]
    probes = [probe.Probe("short", (1,), None, 0, 1), probe.Probe("contiguous", (1, 2, 3), None, 0, 1)]
    outcome = Outcome(facts, schedule, probes, "cpu", "float32")
    outcome.base = outcome.after = outcome.identity = base
    outcome.applied = ours
    outcome.stock = StockRun(ours, {}, (), "5")
    check = compare_runs(outcome)["identity"]
    assert check.status == status, check
    assert ("to rounding" in check.detail) is (status == "pass" and apart > 0)


def test_inputs_reach_past_the_window_and_stay_affordable(llama: Path) -> None:
    facts = read_facts(llama)
    short, long = probe.probes_for(facts, 512, 10_000, "cpu", offsets=True)
    assert len(short.ids) == 32
    assert (len(long.ids), long.positions) == (96, None)
    _, gap = probe.probes_for(facts, 512, 10**12, "cpu", offsets=True)
    assert gap.positions is not None
    assert gap.positions[gap.far_from] - gap.positions[gap.far_from - 1] > facts.original_length
    assert max(gap.positions) == 511
    assert len(probe.probes_for(facts, 512, 10**12, "cpu", offsets=False)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["deepseek_v3", "gemma4_text", "gpt_oss"])
def test_mla_experts_sinks_and_layer_types_pass_too(model_type: str, tmp_path: Path, cli: Call) -> None:
    with quiet_transformers():
        tiny.tiny_model(model_type).save_pretrained(tmp_path / "base")
    # gpt_oss comes stretched by its class's defaults.
    ropewalk.extend(tmp_path / "base", out=tmp_path / "out", factor=4, method="linear", replace=True)
    done = cli("verify", tmp_path / "out", "--json")
    assert done.code == 0, done.json
    assert _statuses(done.json) == dict.fromkeys(NAMES, "pass")


def test_another_file_of_the_folder_is_not_what_stock_software_loads(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    (llama / "other.json").write_text((llama / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    done = cli("verify", llama / "other.json")
    assert done.code == 2
    assert "other.json is not what stock software would load" in done.complaint


def test_a_checkpoint_of_another_file_of_the_base_is_proven_against_that_file(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    other = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    other |= {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    (llama / "other.json").write_text(json.dumps(other), encoding="utf-8")
    out = ropewalk.extend(llama / "other.json", out=tmp_path / "out", target="8x", method="linear").output
    done = cli("verify", out, "--json")
    assert done.code == 0, done.json
    assert _statuses(done.json) == dict.fromkeys(NAMES, "pass")
    assert ropewalk.load_model(llama / "other.json", device="cpu").config.rope_parameters["rope_theta"] == 5e5


def test_both_commands_say_the_same_of_the_angles(llama: Path, tmp_path: Path, cli: Call) -> None:
    out = tmp_path / "out"
    extended = cli("extend", llama, "--target", "8x", "-o", out)
    verified = cli("verify", out)
    lines = [
        [line for line in said.out.splitlines() if line.startswith("angle error at")]
        for said in (extended, verified)
    ]
    assert lines[0] == lines[1]
    assert [line.split(":")[0].split()[-1] for line in lines[0]] == ["128k", "1m", "10m"]


def test_files_that_are_not_what_was_written_are_named_and_fail_nothing(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = _extended(llama, tmp_path / "out")
    assert cli("verify", out, "--json").json["changed"] == []
    assert "changed since" not in cli("verify", out).out
    # Of the same size, another size, and gone.
    tokenizer = (out / "tokenizer.json").read_bytes()
    (out / "tokenizer.json").write_bytes(tokenizer[:-1] + b" ")
    (out / "README.md").write_text("mine")
    (out / "generation_config.json").unlink()
    (out / "notes.txt").write_text("an added file is nobody's")
    done = cli("verify", out, "--json")
    assert done.json["changed"] == ["README.md", "generation_config.json", "tokenizer.json"]
    assert (done.code, done.json["passed"]) == (0, True)
    assert (
        "changed since it was written: README.md, generation_config.json, tokenizer.json"
        in cli("verify", out).out
    )
