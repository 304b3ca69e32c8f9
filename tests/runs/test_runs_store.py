"""Run folders: what is written, in which order, and that every kind of damage is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ropewalk.errors import DamagedError, GateMissedError, RopewalkError, UsageError
from ropewalk.runs import FORMAT, create_run, list_runs, open_run
from ropewalk.runs.environment import mask_secrets

REQUEST = {"model": "tiny", "lengths": [512, 1024]}


def make(root: Path, kind: str = "eval", **document: object) -> Path:
    with create_run(kind, REQUEST, root=root) as run:
        run.write_json("result.json", {"loss": 2.5} | document)
    return run.path


def enter(path: Path, *, resume: bool) -> None:
    with create_run("eval", {}, path=path, resume=resume):
        pass


def interrupted(path: Path) -> None:
    with create_run("eval", REQUEST, path=path) as run:
        run.write_json("cells.json", [1, 2])
        raise KeyboardInterrupt


def missed(path: Path) -> None:
    with create_run("verify", REQUEST, path=path) as run:
        run.write_json("result.json", {"checks": []})
        raise GateMissedError("1 of 9 checks failed")


def test_a_missed_gate_is_a_result(tmp_path: Path) -> None:
    with pytest.raises(GateMissedError):
        missed(tmp_path / "v")
    stored = open_run(tmp_path / "v")
    assert stored.status == "complete"
    assert stored.manifest["error"]["type"] == "GateMissedError"


def test_a_run_is_written_and_read_back(tmp_path: Path) -> None:
    path = make(tmp_path)
    run = open_run(path)
    assert run.status == "complete"
    assert run.kind == "eval"
    assert dict(run.request) == REQUEST
    assert run.read_json() == {"loss": 2.5}
    assert set(run.files) == {"request.json", "result.json"}
    assert run.manifest["format"] == FORMAT
    assert run.manifest["versions"]["python"]
    assert run.manifest["hardware"]["num_cpus"] >= 1
    assert run.manifest["seconds"] >= 0


def test_the_manifest_comes_last(tmp_path: Path) -> None:
    with create_run("eval", REQUEST, root=tmp_path) as run:
        said = json.loads((run.path / "request.json").read_text())
        assert said["request"] == REQUEST
        assert {"python", "ropewalk"} <= set(said["versions"])
        assert not (run.path / "manifest.json").exists()
    assert (run.path / "manifest.json").is_file()


def test_a_failure_is_recorded_and_raised(tmp_path: Path) -> None:
    with pytest.raises(RopewalkError, match="no text"), create_run("eval", REQUEST, root=tmp_path) as run:
        raise RopewalkError("no text", hint="give one")
    stored = open_run(run.path)
    assert stored.status == "failed"
    assert stored.manifest["error"]["message"] == "no text"


def test_an_unexpected_failure_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create_run("eval", REQUEST, root=tmp_path) as run:
        _ = 1 / 0
    assert "ZeroDivisionError" in open_run(run.path).manifest["error"]["traceback"]


def test_ctrl_c_is_an_interruption_and_can_be_resumed(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    first = open_run(target)
    assert first.status == "interrupted"
    with create_run("eval", REQUEST, path=target, resume=True) as run:
        assert run.resumed
        assert not (target / "manifest.json").exists()
        assert json.loads((target / "cells.json").read_text()) == [1, 2]
    assert open_run(target).status == "complete"
    assert open_run(target).manifest["created"] == first.manifest["created"]


def test_a_complete_run_never_changes(tmp_path: Path) -> None:
    path = make(tmp_path)
    for resume in (False, True):
        with pytest.raises(RopewalkError, match="never changes"):
            enter(path, resume=resume)
    assert open_run(path).read_json() == {"loss": 2.5}


def test_resuming_another_kind_or_a_strange_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), create_run("train", REQUEST, path=tmp_path / "t"):
        raise KeyboardInterrupt
    with pytest.raises(RopewalkError, match="kind 'train'"):
        enter(tmp_path / "t", resume=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(RopewalkError, match="no run"):
        enter(tmp_path / "home", resume=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    (tmp_path / "home" / "request.json").write_text("[]")
    with pytest.raises(DamagedError, match=r"request\.json is not what a run writes"):
        enter(tmp_path / "home", resume=True)


def test_non_finite_numbers_become_null_and_numpy_plain(tmp_path: Path) -> None:
    import numpy as np

    path = make(tmp_path, worst=float("nan"), best=np.float64(1.5), curve=np.arange(2))
    assert open_run(path).read_json() == {"loss": 2.5, "worst": None, "best": 1.5, "curve": [0, 1]}


def test_names_stay_inside(tmp_path: Path) -> None:
    with create_run("eval", REQUEST, root=tmp_path) as run:
        for name in ("../escape.json", "/tmp/escape.json", ""):
            with pytest.raises(DamagedError, match="leaves the folder of run"):
                run.write_json(name, {})


def test_a_hostile_manifest_cannot_point_outside(tmp_path: Path) -> None:
    path = make(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "0"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match="leaves the folder of run"):
        open_run(path)


def test_a_link_cannot_lead_outside(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "elsewhere.json").write_bytes((path / "result.json").read_bytes())
    (path / "result.json").unlink()
    (path / "result.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DamagedError, match="leaves the folder of run"):
        open_run(path)


def test_an_unknown_kind_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown"), create_run("dance", {}, root=tmp_path):
        pass


def damage_flip(path: Path) -> None:
    (path / "result.json").write_text('{\n  "loss": 2.4\n}\n')


def damage_cut(path: Path) -> None:
    (path / "result.json").write_text("{")


def damage_lose(path: Path) -> None:
    (path / "result.json").unlink()


def damage_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"format": "ropewalk-run/1"')


def damage_nesting(path: Path) -> None:
    (path / "manifest.json").write_text("[" * 100000)


def damage_newer(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace("ropewalk-run/1", "ropewalk-run/7"))


def damage_half(path: Path) -> None:
    (path / "manifest.json").unlink()


def damage_foreign(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    (path / "notes.txt").write_text("hello")


def damage_empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def damage_field(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["status"]
    (path / "manifest.json").write_text(json.dumps(manifest))


def damage_type(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"seconds": [1]}))


DAMAGES = {
    "'seconds' of the wrong type": damage_type,
    "not what was written": damage_flip,
    "bytes, the manifest says": damage_cut,
    "has lost result.json": damage_lose,
    "manifest.json is not JSON": damage_manifest,
    "is not JSON": damage_nesting,
    "ropewalk-run/7": damage_newer,
    "never ended": damage_half,
    "is no run folder": damage_foreign,
    "empty folder": damage_empty,
    "lacks 'status'": damage_field,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_every_damage_is_named(tmp_path: Path, message: str) -> None:
    path = make(tmp_path)
    DAMAGES[message](path)
    with pytest.raises(DamagedError, match=message) as caught:
        open_run(path)
    assert path.name in str(caught.value)
    assert caught.value.hint


def test_a_missing_folder_is_a_failure_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RopewalkError, match="no run folder") as caught:
        open_run(tmp_path / "none")
    assert caught.value.exit_code == 1


def test_a_killed_run_says_what_it_was(tmp_path: Path) -> None:
    code = (
        "import os, signal; from ropewalk.runs import create_run\n"
        f"with create_run('train', {{'model': 'tiny'}}, path={str(tmp_path / 'killed')!r}) as run:\n"
        "    run.write_json('metrics.json', [1])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(DamagedError, match="never ended"):
        open_run(tmp_path / "killed")
    with create_run("train", {"model": "tiny"}, path=tmp_path / "killed", resume=True) as run:
        assert json.loads((run.path / "metrics.json").read_text()) == [1]
    assert open_run(tmp_path / "killed").status == "complete"


def test_a_nested_checkpoint_is_covered_by_its_own_manifest(tmp_path: Path) -> None:
    with create_run("train", REQUEST, root=tmp_path) as run:
        run.write_bytes("checkpoints/step-10/model.safetensors", b"0" * 100)
        run.write_json("checkpoints/step-10/manifest.json", {"files": {}})
        run.write_text("checkpoints/notes.txt", "plain")
    assert set(open_run(run.path).files) == {
        "request.json",
        "checkpoints/step-10/manifest.json",
        "checkpoints/notes.txt",
    }


def test_the_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_RUNS", str(tmp_path / "here"))
    with create_run("eval", REQUEST) as run:
        pass
    assert run.path.parent == tmp_path / "here"
    monkeypatch.delenv("ROPEWALK_RUNS")
    monkeypatch.chdir(tmp_path)
    with create_run("eval", REQUEST) as run:
        pass
    assert run.path.resolve().parent == tmp_path / "runs"


def test_secrets_do_not_reach_the_manifest() -> None:
    words = ["eval", "http://x/v1", "--api-key", "sk-123", "--auth-token=abc", "--max-tokens", "8"]
    expected = ["eval", "http://x/v1", "--api-key", "***", "--auth-token=***", "--max-tokens", "8"]
    assert mask_secrets(words) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RopewalkError, match="cannot make"), create_run("eval", {}, root=tmp_path / "x"):
        pass


def test_list_runs_finds_what_was_made(tmp_path: Path) -> None:
    path = make(tmp_path)
    assert [entry.path for entry in list_runs(tmp_path)] == [str(path)]


def test_of_processes_that_begin_one_run_at_once_one_gets_it(tmp_path: Path) -> None:
    line = threading.Barrier(4, timeout=60)

    def begin(number: int) -> bool:
        line.wait()
        try:
            with create_run("eval", {"number": number}, path=tmp_path / "run") as run:
                run.write_json("result.json", {"number": number})
        except RopewalkError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(begin, range(4)))
    assert sum(won) == 1
    assert (
        open_run(tmp_path / "run").request
        == open_run(tmp_path / "run").read_json()
        == {"number": won.index(True)}
    )


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("left", [[], [".request.json.x.tmp"]])
def test_a_run_that_was_killed_before_its_first_line_begins_again(
    tmp_path: Path, resume: bool, left: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    for name in ("request.json", *left):
        (tmp_path / "run" / name).touch()
    with create_run("eval", {"a": 1}, path=tmp_path / "run", resume=resume) as run:
        assert not run.resumed
        run.write_json("result.json", {"b": 2})
    assert open_run(tmp_path / "run").request == {"a": 1}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "manifest.json",
        "request.json",
        "result.json",
    ]


def refused(path: Path) -> None:
    with pytest.raises(UsageError), create_run("train", {"steps": 1}, path=path):
        raise UsageError("no such text", hint="name another")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_refused_at_once_makes_room_for_the_next(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "run"
    refused(folder)
    assert open_run(folder).status == "failed"
    with create_run("eval", REQUEST, path=folder, resume=resume) as run:
        assert not run.resumed
        run.write_json("result.json", {})
    stored = open_run(folder)
    assert (stored.kind, stored.status, stored.request) == ("eval", "complete", REQUEST)


def test_what_a_failed_run_made_is_never_made_room_of(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refused(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RopewalkError, match="already exists"):
        enter(folder, resume=False)
    assert (folder / "notes.txt").read_text() == "mine"
    ended = tmp_path / "ended"
    with create_run("eval", REQUEST, path=ended):
        pass
    with pytest.raises(RopewalkError, match="already exists"):
        enter(ended, resume=False)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("request.json", "manifest.json"):
        (other / name).write_text("{}")
    with pytest.raises(RopewalkError, match="already exists"):
        enter(other, resume=False)
    assert sorted(path.name for path in other.iterdir()) == ["manifest.json", "request.json"]


def test_files_beside_a_claim_are_somebodys(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("request.json", "notes.txt"):
        (tmp_path / "run" / name).touch()
    with (
        pytest.raises(RopewalkError, match="already exists"),
        create_run("eval", {"a": 1}, path=tmp_path / "run"),
    ):
        pass
    with (
        pytest.raises(DamagedError, match=r"request\.json is not JSON"),
        create_run("eval", {"a": 1}, path=tmp_path / "run", resume=True),
    ):
        pass
    assert (tmp_path / "run" / "request.json").is_file()


def test_a_run_that_is_being_written_is_not_resumed_by_another(tmp_path: Path) -> None:
    """`eval -o RUN` twice at once: the second would remove and rewrite what the first still writes."""
    with create_run("eval", {"a": 1}, path=tmp_path / "run", resume=True) as run:
        with (
            pytest.raises(RopewalkError, match=rf"run is being written by process {os.getpid()} on"),
            create_run("eval", {"a": 1}, path=tmp_path / "run", resume=True),
        ):
            pass
        run.write_json("result.json", {"b": 2})
    assert open_run(tmp_path / "run").read_json() == {"b": 2}
    assert not list(tmp_path.glob(".*.lock"))


def test_the_current_folder_and_a_link_have_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    with create_run("eval", {"a": 1}, path=".", resume=True):
        assert sorted(path.name for path in Path().iterdir()) == ["request.json"]
        with (
            pytest.raises(RopewalkError, match="is being written by"),
            create_run("eval", {"a": 1}, path=tmp_path / "link", resume=True),
        ):
            pass
    assert open_run(tmp_path / "run").status == "complete"


@pytest.mark.parametrize("missing", ["kind", "request", "created"])
def test_a_run_without_an_end_is_looked_at_only_where_its_beginning_is_whole(
    tmp_path: Path, missing: str
) -> None:
    from ropewalk.runs.unfinished import look_at_run

    (tmp_path / "metrics.jsonl").write_text("{}\n")
    opening = {"format": FORMAT, "kind": "train", "request": {}, "created": "2026-01-01T00:00:00Z"}
    (tmp_path / "request.json").write_text(json.dumps(opening))
    assert look_at_run(tmp_path).status == "unfinished"
    del opening[missing]
    (tmp_path / "request.json").write_text(json.dumps(opening))
    with pytest.raises(DamagedError, match="never ended"):
        look_at_run(tmp_path)
