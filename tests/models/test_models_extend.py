"""`ropewalk extend`: what it writes, what travels along, and everything that it refuses without leaving a trace."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.models.checkpoint import weights
from ropewalk.models.facts import read_facts
from ropewalk.models.live.built import disagreement
from ropewalk.models.sizes import parameters_of

Call = Callable[..., Any]


def _json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(_json(path) | changes), encoding="utf-8")


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_extend_writes_both_dialects_links_weights_and_takes_everything_along(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = tmp_path / "out"
    before = _snapshot(llama)
    done = cli("extend", llama, "--target", "512", "--method", "yarn", "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json["output"] == str(out)
    assert done.json["weights"] == "link"
    made = done.json["schedule"]
    expected = ropewalk.schedule("yarn", ropewalk.read_geometry(llama), factor=8.0)
    assert made["method"] == "yarn"
    assert made["factor"] == 8.0
    assert made["inv_freq"] == expected.inv_freq.tolist()
    assert made["attention_factor"] == expected.attention_factor
    config = _json(out / "config.json")
    assert config["max_position_embeddings"] == 512
    assert config["rope_parameters"]["rope_type"] == config["rope_scaling"]["rope_type"] == "yarn"
    assert config["rope_scaling"]["original_max_position_embeddings"] == 64
    assert config["rope_theta"] == 10000.0
    assert _json(out / "tokenizer_config.json")["model_max_length"] == 512
    assert _json(out / "generation_config.json") == {"max_length": 512, "eos_token_id": 2}
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    for shard in llama.glob("*.safetensors"):
        assert (out / shard.name).samefile(shard)
    assert _snapshot(llama) == before
    assert [error["position"] for error in done.json["angle_error"]] == [131072, 1048576, 10485760]


def test_the_card_keeps_the_models_own_and_gives_a_command_that_does_it_again(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert cli("extend", llama, "--factor", "4", "-p", "beta_fast=16", "-o", out).code == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n---\n# Tiny\n")
    command = next(line.strip() for line in card.splitlines() if line.strip().startswith("ropewalk extend"))
    words = command.split()[1:]
    assert words[-1] == str(out)
    assert cli(*words[:-1], again).code == 0
    assert _json(again / "config.json") == _json(out / "config.json")
    assert cli("extend", out, "--factor", "8", "-o", tmp_path / "third").code == 0
    assert (tmp_path / "third" / "README.md").read_text(encoding="utf-8").count("ropewalk: begin") == 1


@pytest.mark.parametrize("mode", ["link", "symlink", "copy", "none"])
def test_weights_come_along_as_asked(mode: str, llama: Path, tmp_path: Path, cli: Call) -> None:
    out = tmp_path / "out"
    done = cli("extend", llama, "--target", "256", "--weights", mode, "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json["weights"] == mode
    shards = sorted(out.glob("*.safetensors"))
    if mode == "none":
        assert not shards
        return
    assert [path.name for path in shards] == sorted(path.name for path in llama.glob("*.safetensors"))
    for shard in shards:
        assert shard.is_symlink() == (mode == "symlink")
        assert shard.samefile(llama / shard.name) == (mode != "copy")
        assert shard.read_bytes() == (llama / shard.name).read_bytes()


def test_weights_none_needs_no_weights(llama: Path, tmp_path: Path, cli: Call) -> None:
    for shard in llama.glob("*.safetensors"):
        shard.unlink()
    assert cli("extend", llama, "--target", "256", "-o", tmp_path / "one").code == 1
    assert cli("extend", llama, "--target", "256", "--weights", "none", "-o", tmp_path / "two").code == 0


def test_the_carrier_takes_what_no_native_type_says(llama: Path, tmp_path: Path) -> None:
    done = ropewalk.extend(llama, out=tmp_path / "out", target="8x", method="mrrope-pro")
    assert done.written_as == "longrope"
    read = read_facts(tmp_path / "out").rope.schedule
    assert read is not None
    assert abs(read.inv_freq / done.schedule.inv_freq - 1).max() < 1e-12


def test_a_schedule_file_is_taken_as_it_is(llama: Path, tmp_path: Path, cli: Call) -> None:
    schedule = ropewalk.schedule("ntk-su", ropewalk.read_geometry(llama), factor=4.0)
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(schedule.to_json()), encoding="utf-8")
    done = cli("extend", llama, "--schedule", file, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["schedule"]["inv_freq"] == schedule.inv_freq.tolist()
    assert done.json["target_length"] == 256
    both = cli("extend", llama, "--schedule", file, "--factor", "2", "-o", tmp_path / "two")
    assert both.code == 2
    file.write_text("{", encoding="utf-8")
    assert cli("extend", llama, "--schedule", file, "-o", tmp_path / "three").code == 3


def test_a_scaled_model_is_stretched_from_its_original_window_and_says_so(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    for method in ("yarn", "linear", "ntk", "mrrope-pro"):
        first, second = tmp_path / f"{method}-1", tmp_path / f"{method}-2"
        assert cli("extend", llama, "--factor", "4", "--method", method, "-o", first).code == 0
        done = cli("extend", first, "--target", "1k", "--method", "linear", "-o", second, "--json")
        assert done.code == 0, done.err
        assert done.json["schedule"]["factor"] == 16.0
        assert done.json["schedule"]["original_length"] == 64
        assert any("already scaled" in note and "original 64 tokens" in note for note in done.json["notes"])


def test_repair_mends_what_inspect_names_and_keeps_the_original_beside_it(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    broken = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    _edit(llama / "config.json", rope_parameters=broken, rope_scaling=None, max_position_embeddings=256)
    content = (llama / "config.json").read_bytes()
    found = {finding["id"] for finding in cli("inspect", llama, "--json").json["findings"]}
    assert "original-length-missing" in found
    out = tmp_path / "out"
    done = cli("extend", llama, "--repair", "-o", out, "--json")
    assert done.code == 0, done.err
    assert "original-length-missing" in done.json["repaired"]
    assert done.json["schedule"] is None
    left = {finding["id"] for finding in cli("inspect", out, "--json").json["findings"]}
    assert "original-length-missing" not in left
    assert (out / "config.json.original").read_bytes() == content
    assert (llama / "config.json").read_bytes() == content


# -- refusals: one line, the right code, nothing written, the source as it was ------------------------------------


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


def _not_json(model: Path) -> None:
    (model / "config.json").write_text("{broken", encoding="utf-8")


def _wrong_type(model: Path) -> None:
    _edit(model / "config.json", model_type="mamba", architectures=["MambaForCausalLM"])


def _no_weights(model: Path) -> None:
    for shard in model.glob("*.safetensors"):
        shard.unlink()


def _one_shard_gone(model: Path) -> None:
    sorted(model.glob("*.safetensors"))[0].unlink()


def _cut_short(model: Path) -> None:
    shard = sorted(model.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])


def _index_outside(model: Path) -> None:
    index = _json(model / weights.INDEX)
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../secret.safetensors")
    (model / weights.INDEX).write_text(json.dumps(index), encoding="utf-8")


def _index_absolute(model: Path) -> None:
    index = _json(model / weights.INDEX)
    index["weight_map"] = dict.fromkeys(index["weight_map"], "/etc/secret.safetensors")
    (model / weights.INDEX).write_text(json.dumps(index), encoding="utf-8")


def _pickles(model: Path) -> None:
    _no_weights(model)
    (model / weights.INDEX).unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _own_code(model: Path) -> None:
    _edit(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})


def _linked_out(model: Path) -> None:
    secret = model.parent / "secret"
    secret.write_text("nothing of the model's", encoding="utf-8")
    (model / "vocab.txt").symlink_to(secret)


BAD_MODELS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "no config": (_no_config, 1, "holds no config.json"),
    "config not JSON": (_not_json, 1, "is not JSON"),
    "not a RoPE model": (_wrong_type, 1, "has no rotary embeddings"),
    "weights missing": (_no_weights, 1, "holds no weights"),
    "a shard missing": (_one_shard_gone, 3, "is missing"),
    "a shard cut short": (_cut_short, 3, "cut short"),
    "index outside the folder": (_index_outside, 1, "not a safetensors file inside the folder"),
    "index absolute": (_index_absolute, 1, "not a safetensors file inside the folder"),
    "pickle weights": (_pickles, 1, "pickle"),
    "code of its own": (_own_code, 1, "--trust-remote-code"),
    "a link out of the folder": (_linked_out, 1, "link out of the model's folder"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused_in_one_line_without_a_trace(
    name: str, llama: Path, tmp_path: Path, cli: Call
) -> None:
    spoil, code, words = BAD_MODELS[name]
    spoil(llama)
    before, beside = _snapshot(llama), sorted(tmp_path.iterdir())
    done = cli("extend", llama, "--target", "512", "-o", tmp_path / "out")
    assert (done.code, words in done.complaint) == (code, True), done.err
    assert len(done.err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == beside
    assert _snapshot(llama) == before
    as_json = cli("extend", llama, "--target", "512", "-o", tmp_path / "out", "--json")
    assert as_json.code == code
    assert words.split()[0] in json.dumps(as_json.json["error"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "how far"),
        (("--target", "32"), 2, "below original_length"),
        (("--factor", "-3"), 2, "not a stretch"),
        (("--target", "nonsense"), 2, "not a number of tokens"),
        (("--target", "512", "--method", "yarm"), 2, "did you mean yarn"),
        (("--target", "512", "-p", "beta_fst=3"), 2, "no parameter"),
        (("--target", "512", "--weights", "teleport"), 2, "teleport"),
        (("--target", "512", "--schedule", "nowhere.json"), 1, "cannot read nowhere.json"),
    ],
)
def test_bad_requests_are_refused(
    words: tuple[str, ...], code: int, says: str, llama: Path, cli: Call
) -> None:
    out = llama.parent / "out"
    done = cli("extend", llama, *words, "-o", out)
    assert (done.code, says in done.complaint) == (code, True), done.err
    assert not out.exists()


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, cli: Call) -> None:
    for source in (tmp_path / "nowhere", "nobody/nothing"):
        done = cli("extend", source, "--target", "512", "-o", tmp_path / "out")
        assert done.code == 1
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_output_stays_without_force_and_only_checkpoints_are_replaced(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    out = tmp_path / "out"
    assert cli("extend", llama, "--target", "512", "-o", out).code == 0
    before = _snapshot(out)
    refused = cli("extend", llama, "--target", "1k", "-o", out)
    assert refused.code == 1
    assert "--force" in refused.complaint
    assert _snapshot(out) == before
    assert cli("extend", llama, "--target", "1k", "-o", out, "--force").code == 0
    assert _json(out / "config.json")["max_position_embeddings"] == 1024
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"x")
    kept = cli("extend", llama, "--target", "1k", "-o", photos, "--force")
    assert kept.code == 1
    assert (photos / "one.jpg").exists()


@pytest.mark.parametrize("where", ["llama", "llama/inside", "."])
def test_the_source_is_never_written_to(where: str, llama: Path, tmp_path: Path, cli: Call) -> None:
    before = _snapshot(llama)
    done = cli("extend", llama, "--target", "512", "-o", tmp_path / where, "--force")
    assert done.code == 2
    assert _snapshot(llama) == before


def _failing(code: int) -> Callable[..., None]:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_where_hard_links_are_refused_small_weights_are_copied_aloud_and_large_ones_refused(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _failing(errno.EXDEV))
    done = cli("extend", llama, "--target", "512", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["weights"] == "copy"
    assert any("another file system" in note and "copied" in note for note in done.json["notes"])
    assert not (tmp_path / "out" / "model.safetensors.index.json").is_symlink()
    monkeypatch.setattr(weights, "MAX_COPIED_UNASKED", 0)
    refused = cli("extend", llama, "--target", "512", "-o", tmp_path / "two")
    assert refused.code == 1
    assert "--weights copy" in refused.complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out"]


def test_an_interrupted_extension_leaves_nothing_behind(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "bring", interrupt)
    done = cli("extend", llama, "--target", "512", "-o", tmp_path / "out")
    assert done.code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]


def test_a_full_disk_leaves_nothing_behind(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _snapshot(llama)
    monkeypatch.setattr(shutil, "copyfile", _failing(errno.ENOSPC))
    done = cli("extend", llama, "--target", "512", "--weights", "copy", "-o", tmp_path / "out")
    assert done.code == 1
    assert "No space left" in done.complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]
    assert _snapshot(llama) == before


def test_a_copy_that_cannot_fit_is_refused_before_it_starts(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    done = cli("extend", llama, "--target", "512", "--weights", "copy", "-o", tmp_path / "out")
    assert done.code == 1
    assert "free" in done.complaint


def test_a_read_only_target_is_one_line(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.files.tempfile.mkdtemp", _failing(errno.EROFS))
    done = cli("extend", llama, "--target", "512", "-o", tmp_path / "out")
    assert done.code == 1
    assert "Read-only file system" in done.complaint
    assert len(done.err.strip().splitlines()) == 1


def test_trusted_code_travels_along(llama: Path, tmp_path: Path, cli: Call) -> None:
    _own_code(llama)
    (llama / "modeling_evil.py").write_text("raise SystemExit\n", encoding="utf-8")
    done = cli("extend", llama, "--target", "512", "--trust-remote-code", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "modeling_evil.py").exists()


def test_a_hub_cache_snapshot_is_extended_through_its_links(llama: Path, tmp_path: Path, cli: Call) -> None:
    store = tmp_path / "models--tiny--llama"
    snapshot = store / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (store / "blobs").mkdir()
    for number, path in enumerate(sorted(llama.iterdir())):
        blob = store / "blobs" / f"blob{number}"
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    out = tmp_path / "out"
    done = cli("extend", snapshot, "--target", "512", "-o", out)
    assert done.code == 0, done.err
    assert not any(path.is_symlink() for path in out.iterdir())
    assert (out / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_a_defect_in_the_source_is_said_aloud(llama: Path, tmp_path: Path, cli: Call) -> None:
    broken = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    _edit(llama / "config.json", rope_parameters=broken, rope_scaling=None, max_position_embeddings=256)
    done = cli("extend", llama, "--factor", "8", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert any("original-length-missing" in note and "--repair" in note for note in done.json["notes"])
    mended = cli("extend", llama, "--factor", "8", "--repair", "-o", tmp_path / "mended", "--json")
    assert mended.code == 0, mended.err
    assert mended.json["schedule"]["original_length"] == 64
    assert mended.json["target_length"] == 512
    assert (tmp_path / "mended" / "config.json.original").exists()


# -- a file that is named takes config.json's place ---------------------------------------------------------------


def test_the_file_that_was_named_is_the_one_that_is_extended(llama: Path, tmp_path: Path, cli: Call) -> None:
    other = _json(llama / "config.json") | {"rope_theta": 5e5}
    other["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (llama / "other.json").write_text(json.dumps(other), encoding="utf-8")
    out = tmp_path / "out"
    assert cli("extend", llama / "other.json", "--target", "8x", "--method", "linear", "-o", out).code == 0
    written = _json(out / "config.json")
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 5e5
    assert not (out / "other.json").exists()
    assert (out / "tokenizer.json").is_file()
    assert sorted(path.name for path in out.glob("*.safetensors"))
    assert _json(out / "ropewalk.json")["base"]["config_file"] == "other.json"


def test_a_lone_configuration_is_extended_and_mended_as_inspect_prints(tmp_path: Path, cli: Call) -> None:
    examples = Path(__file__).parents[2] / "examples" / "configs"
    looked = cli("inspect", examples / "broken.json")
    assert f"`ropewalk extend {examples}/broken.json --repair -o OUT`" in looked.out
    mended = cli("extend", examples / "broken.json", "--repair", "-o", tmp_path / "mended", "--json")
    assert mended.code == 0, mended.err
    assert mended.json["weights"] == "none"
    assert any("no weights beside the file" in note for note in mended.json["notes"])
    assert sorted(path.name for path in (tmp_path / "mended").iterdir()) == [
        "config.json",
        "config.json.original",
        "ropewalk.json",
    ]
    assert not any(
        finding["severity"] == "error"
        for finding in cli("inspect", tmp_path / "mended", "--json").json["findings"]
    )


def test_of_several_that_write_to_one_place_at_once_one_wins(llama: Path, tmp_path: Path) -> None:
    out, line = tmp_path / "out", threading.Barrier(4, timeout=60)

    def write(factor: int) -> str:
        line.wait()
        try:
            return ropewalk.extend(llama, out=out, factor=float(factor), method="linear").command
        except ropewalk.RopewalkError as error:
            return error.message

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(write, (2, 3, 4, 5)))
    won = [text for text in said if text.startswith("ropewalk extend")]
    assert len(won) == 1, said
    assert sum("already exists" in text for text in said) == 3
    assert _json(out / "ropewalk.json")["command"] == won[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out"]


# -- what the command line says of a file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_theta": -10000.0, "rope_parameters": None}, "rope_theta=-10000 would make"),
        ({"head_dim": 17}, "rotary_dim=17"),
        ({"rope_theta": 10**29, "max_position_embeddings": 10**29}, "an integer of about 30 digits"),
    ],
)
def test_a_bad_value_in_a_file_is_no_usage_error_and_names_the_file(
    change: dict[str, Any], says: str, llama: Path, tmp_path: Path, cli: Call
) -> None:
    (llama / "mine.json").write_text(json.dumps(_json(llama / "config.json") | change), encoding="utf-8")
    for line in (
        ("inspect",),
        ("plan", "--target", "1k"),
        ("extend", "--factor", "2", "-o", tmp_path / "out"),
    ):
        done = cli(line[0], llama / "mine.json", *line[1:])
        assert done.code == 1, done.err
        assert f"{llama}/mine.json: " in done.complaint
        assert says in done.complaint


def test_bare_infinities_are_shown_as_they_stand(llama: Path, cli: Call) -> None:
    text = (llama / "config.json").read_text(encoding="utf-8")
    config = json.loads(text) | {"rope_theta": "@", "rope_parameters": None}
    (llama / "config.json").write_text(json.dumps(config).replace('"@"', "NaN"), encoding="utf-8")
    done = cli("inspect", llama)
    assert done.code == 1
    assert "rope_theta=NaN is not a finite number" in done.complaint


def test_the_next_command_can_be_pasted(
    llama: Path, tmp_path: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my model"
    monkeypatch.setenv("COLUMNS", "40")
    done = cli("extend", llama, "--target", "8x", "-o", out)
    assert f"next: ropewalk verify '{out}'" in done.out.splitlines()


# -- repair: what it changes, what it refuses, what stock software then says -----------------------------------------


AMBIGUOUS = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}


def _broken(llama: Path, tokenizer_limit: int, **entry: Any) -> None:
    scaling = AMBIGUOUS | entry
    _edit(llama / "config.json", rope_parameters=scaling, rope_scaling=None, max_position_embeddings=256)
    _edit(llama / "tokenizer_config.json", model_max_length=tokenizer_limit)


def test_repair_prints_every_value_before_and_after(llama: Path, tmp_path: Path, cli: Call) -> None:
    _broken(llama, 64)
    dry = cli("extend", llama, "--repair", "--dry-run")
    assert dry.code == 0, dry.err
    assert list(tmp_path.iterdir()) == [llama]
    assert "  rope_parameters.original_max_position_embeddings: nothing -> 64" in dry.out.splitlines()
    assert "dry run, nothing written: configuration only" in dry.out
    done = cli("extend", llama, "--repair", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    changed = {change["where"]: change for change in done.json["changed"]}
    assert changed["rope_parameters.original_max_position_embeddings"] == {
        "where": "rope_parameters.original_max_position_embeddings",
        "new": 64,
    }
    assert changed["rope_scaling"]["old"] is None
    before, after = _json(llama / "config.json"), _json(tmp_path / "out" / "config.json")
    differ = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert {where.split(".")[0] for where in changed} == differ


def test_repair_refuses_what_has_two_readings_until_it_is_told(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    _broken(llama, 256)
    refused = cli("extend", llama, "--repair", "-o", tmp_path / "out", "--json")
    assert refused.code == 1
    error = refused.json["error"]
    assert error["message"].startswith("original-length-missing")
    assert "64 or 256" in error["hint"]
    assert "--original-length" in error["hint"]
    assert not (tmp_path / "out").exists()
    for told in (64, 256):
        out = tmp_path / f"out-{told}"
        done = cli("extend", llama, "--repair", "--original-length", str(told), "-o", out, "--json")
        assert done.code == 0, done.err
        assert read_facts(out).original_length == told
        assert f"--original-length {told}" in done.json["command"]
    _edit(llama / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    nowhere = cli("extend", llama, "--repair", "--original-length", "64", "-o", tmp_path / "x")
    assert (nowhere.code, "nowhere to stand" in nowhere.complaint) == (2, True)


@pytest.mark.parametrize("spoil", [{"rope_theta": None}, {"original_max_position_embeddings": None}])
def test_what_repair_calls_mended_builds_in_stock_software(
    spoil: dict[str, Any], llama: Path, tmp_path: Path, cli: Call
) -> None:
    _broken(llama, 64, **spoil)
    _edit(llama / "config.json", rope_theta=10000.0)
    with pytest.raises(ropewalk.RopewalkError, match="TypeError"):
        disagreement(_json(llama / "config.json"), read_facts(llama))
    done = cli("extend", llama, "--repair", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    model = ropewalk.load_model(tmp_path / "out", device="cpu")
    wanted = ropewalk.schedule("yarn", ropewalk.read_geometry(llama), factor=4.0)
    assert wanted.geometry.original_length == 256
    wanted = ropewalk.schedule("yarn", replace(wanted.geometry, original_length=64), factor=4.0)
    assert model.model.rotary_emb.inv_freq.numpy() == pytest.approx(wanted.inv_freq, rel=1e-6)


def test_a_mended_file_that_stock_software_refuses_is_not_written(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    _broken(llama, 64)
    _edit(llama / "config.json", hidden_size="many", head_dim=16)
    done = cli("extend", llama, "--repair", "-o", tmp_path / "out")
    assert done.code == 1
    assert not (tmp_path / "out").exists()


def test_of_a_single_file_and_shards_the_single_file_is_taken_as_stock_software_does(
    llama: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    tensors = {
        name: value + 1.0 for shard in llama.glob("*.safetensors") for name, value in load_file(shard).items()
    }
    save_file(tensors, llama / weights.SINGLE, metadata={"format": "pt"})
    # What other software keeps beside them counts for neither.
    save_file(tensors, llama / "consolidated.safetensors")
    done = ropewalk.extend(llama, output=tmp_path / "out", factor=2.0)
    assert [name for name in done.files if "safetensors" in name] == [weights.SINGLE]
    loaded = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    assert all(bool((loaded[name] == value).all()) for name, value in tensors.items())
    assert parameters_of(llama) == sum(value.numel() for value in tensors.values())
    (llama / weights.SINGLE).unlink()
    assert parameters_of(llama) == sum(value.numel() for value in tensors.values())
    next(iter(llama.glob("model-*.safetensors"))).unlink()
    assert parameters_of(llama) is None


def test_the_command_of_a_schedule_in_memory_names_the_manifest_that_holds_it(
    llama: Path, tmp_path: Path, cli: Call
) -> None:
    made = ropewalk.schedule("ntk-su", ropewalk.read_geometry(llama), factor=4.0, b=0.9)
    done = ropewalk.extend(llama, output=tmp_path / "out", schedule=made)
    assert (
        done.command == f"ropewalk extend {llama} --schedule {tmp_path}/out/ropewalk.json -o {tmp_path}/out"
    )
    words = done.command.split()[1:-1]
    assert cli(*words, tmp_path / "again").code == 0
    assert _json(tmp_path / "again" / "config.json") == _json(tmp_path / "out" / "config.json")
    assert "--schedule OUT/ropewalk.json" in ropewalk.extend(llama, schedule=made, dry_run=True).command


def test_force_replaces_an_output_with_its_draft(llama: Path, tmp_path: Path, cli: Call) -> None:
    out = tmp_path / "out"
    for factor in ("4", "8"):
        done = cli("extend", llama, "--factor", factor, "--draft", llama, "-o", out, "--force")
        assert done.code == 0, done.err
    assert _json(out / "draft" / "config.json")["max_position_embeddings"] == 512
    assert cli("extend", llama, "--factor", "8", "--draft", llama, "-o", out).code == 1


def _fitted(source: Path, file: Path, **named: object) -> Path:
    schedule = ropewalk.schedule("ntk-su", ropewalk.read_geometry(source), factor=4.0)
    file.write_text(json.dumps(schedule.to_json() | {"fitted": {"by": "ropewalk tune", **named}}))
    return file


def test_numbers_that_were_fitted_on_another_model_say_so(llama: Path, tmp_path: Path, cli: Call) -> None:
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    link = tmp_path / "link"
    link.symlink_to(llama)

    def notes(source: Path, **named: object) -> list[str]:
        file = _fitted(llama, tmp_path / "fitted.json", **named)
        done = cli("extend", source, "--schedule", file, "--dry-run", "--replace", "--json")
        assert done.code == 0, done.err
        return [note for note in done.json["notes"] if "fitted" in note]

    assert (
        notes(llama, model=str(llama)) == notes(llama, model=str(link)) == notes(link, model=str(llama)) == []
    )
    assert notes(llama) == notes(llama, model=5) == []
    said = f"{tmp_path / 'fitted.json'} was fitted on {str(llama)!r}, and this is {str(other)!r}"
    assert notes(other, model=str(llama)) == [f"{said}: its numbers are that model's"]
    assert "was fitted on 'owner/name', and this is" in notes(other, model="owner/name")[0]
    # What was made from a model is that model.
    made = tmp_path / "made"
    assert cli("extend", llama, "--factor", "2", "-o", made).code == 0
    assert notes(made, model=str(llama)) == []
    assert len(notes(made, model=str(other))) == 1


def test_an_output_that_is_no_path_is_refused(llama: Path) -> None:
    for given in (b"/tmp/out", 5, "", "a\0b"):
        with pytest.raises(UsageError, match=r"^output=.* is not a path: give the path"):
            ropewalk.extend(llama, output=given, factor=4.0)


def test_a_lone_configuration_has_no_folder_of_its_own(llama: Path, tmp_path: Path, cli: Call) -> None:
    """A file among others, as in Downloads: its folder may take the output, and what lies there is no draft of it."""
    (tmp_path / "downloads").mkdir()
    file = tmp_path / "downloads" / "config.json"
    shutil.copy(llama / "config.json", file)
    shutil.copytree(llama, tmp_path / "downloads" / "another")
    content = file.read_bytes()
    assert "another" not in cli("inspect", file).out
    done = cli("extend", file, "--factor", "4", "-o", tmp_path / "downloads" / "out", "--json")
    assert done.code == 0, done.err
    assert not any("another" in note for note in done.json["notes"])
    for where in (file, tmp_path / "downloads"):
        refused = cli("extend", file, "--factor", "4", "-o", where, "--force")
        assert (refused.code, "overlap" in refused.err) == (2, True)
    assert file.read_bytes() == content
