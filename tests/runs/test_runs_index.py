"""The index: a cache that is never believed against the folders."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.cli.main import main
from ropewalk.errors import RopewalkError
from ropewalk.runs import create_run, list_runs, open_run
from ropewalk.runs.diff import diff
from ropewalk.runs.documents import finite
from ropewalk.runs.index import INDEX, find_run, rebuild, subject


def make(root: Path, name: str, kind: str = "eval", loss: float = 2.0, **request: object) -> Path:
    with create_run(kind, {"model": "tiny"} | request, path=root / name) as run:
        run.write_json("result.json", {"loss": [{"length": 512, "loss": loss}]})
    return run.path


def test_the_newest_come_first_and_kinds_filter(tmp_path: Path) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b", kind="train")
    for name, created in (("a", "2026-01-01T00:00:00Z"), ("b", "2026-02-01T00:00:00Z")):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest | {"created": created}))
    assert [entry.id for entry in list_runs(tmp_path)] == ["b", "a"]
    assert [entry.id for entry in list_runs(tmp_path, kind="eval")] == ["a"]
    assert list_runs(tmp_path / "none") == []


def test_the_index_follows_the_folders(tmp_path: Path) -> None:
    make(tmp_path, "a")
    first = list_runs(tmp_path)
    assert (tmp_path / INDEX).is_file()
    assert list_runs(tmp_path) == first
    make(tmp_path, "b")
    shutil.rmtree(tmp_path / "a")
    assert [entry.id for entry in list_runs(tmp_path)] == ["b"]
    (tmp_path / "b" / "manifest.json").write_text("{")
    (entry,) = list_runs(tmp_path)
    assert entry.status == "damaged"
    assert "manifest.json" in (entry.problem or "")


def test_an_unfinished_run_that_ends_is_seen(tmp_path: Path) -> None:
    with create_run("eval", {"model": "tiny"}, path=tmp_path / "a"):
        (entry,) = list_runs(tmp_path)
        assert entry.status == "unfinished"
    (entry,) = list_runs(tmp_path)
    assert entry.status == "complete"


def test_a_damaged_index_is_rebuilt(tmp_path: Path) -> None:
    make(tmp_path, "a")
    expected = list_runs(tmp_path)
    (tmp_path / INDEX).write_bytes(b"not a database at all, but long enough to be taken for one" * 40)
    assert list_runs(tmp_path) == expected
    assert list_runs(tmp_path) == expected
    assert rebuild(tmp_path) == 1


def test_a_stale_row_is_not_believed(tmp_path: Path) -> None:
    make(tmp_path, "a")
    list_runs(tmp_path)
    with sqlite3.connect(tmp_path / INDEX) as connection:
        connection.execute("UPDATE runs_1 SET stamp = 'old', entry = '{}'")
    connection.close()
    assert [entry.subject for entry in list_runs(tmp_path)] == ["tiny"]


def test_an_unreadable_row_is_not_believed(tmp_path: Path) -> None:
    make(tmp_path, "a")
    list_runs(tmp_path)
    with sqlite3.connect(tmp_path / INDEX) as connection:
        connection.execute("UPDATE runs_1 SET entry = '{\"strange\": 1}'")
    connection.close()
    assert [entry.subject for entry in list_runs(tmp_path)] == ["tiny"]


def test_runs_are_found_by_a_part_of_their_name(tmp_path: Path) -> None:
    make(tmp_path, "20260101-000000-eval-aaaa")
    make(tmp_path, "20260102-000000-eval-bbbb")
    assert find_run("bbbb", tmp_path).name.endswith("bbbb")
    assert find_run("20260101", tmp_path).name.endswith("aaaa")
    assert find_run("last", tmp_path).is_dir()
    with pytest.raises(RopewalkError, match="names 2 runs"):
        find_run("2026", tmp_path)
    with pytest.raises(RopewalkError, match="no run 'zzzz'"):
        find_run("zzzz", tmp_path)


def test_subjects_are_short() -> None:
    assert subject({"model": "tiny", "target_length": 4096}) == "tiny → 4k"
    assert subject({"model": "tiny", "lengths": [512, 1000]}) == "tiny → 512, 1000"
    assert subject({"recipe": {"name": "yarn-32k"}}) == "yarn-32k"
    assert subject({}) == ""


def test_diff_names_what_differs(tmp_path: Path) -> None:
    one = open_run(make(tmp_path, "a", loss=2.0, dtype="float32"))
    two = open_run(make(tmp_path, "b", loss=2.5, dtype="bfloat16"))
    found = {item.part + item.path: item for item in diff(one, two)}
    assert found["result/loss/512/loss"].change == pytest.approx(0.5)
    assert found["request/dtype"].second == "bfloat16"
    assert set(found) == {"result/loss/512/loss", "request/dtype"}
    assert diff(one, one) == []


def test_the_commands_keep_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b", loss=2.5)
    (tmp_path / "empty").mkdir()
    assert main(["runs", "ls", "--root", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {run["id"]: run["status"] for run in listed["runs"]} == {
        "a": "complete",
        "b": "complete",
        "empty": "damaged",
    }
    assert main(["runs", "show", "a", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"loss": [{"length": 512, "loss": 2.0}]}
    assert main(["runs", "diff", "a", "b", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["change"] == pytest.approx(0.5)
    for arguments in (["ls"], ["show", "a"], ["diff", "a", "b"], ["ls", "--rebuild"]):
        assert main(["runs", *arguments, "--root", str(tmp_path)]) == 0
        assert "a" in capsys.readouterr().out
    assert main(["runs", "show", "empty", "--root", str(tmp_path)]) == 3
    assert main(["runs", "show", "none", "--root", str(tmp_path)]) == 1
    assert main(["runs", "ls", "--kind", "dance"]) == 2


def test_alone_it_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWALK_RUNS", str(tmp_path))
    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    make(tmp_path, "first")
    assert main(["runs"]) == 0
    assert "first" in capsys.readouterr().out


def test_names_with_markup_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a", model="[bold]x[/bold] [/oops]")
    for arguments in (["ls"], ["show", "a"]):
        assert main(["runs", *arguments, "--root", str(tmp_path)]) == 0
        assert "[bold]x[/bold] [/oops]" in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_document_can_be_written_strictly(document: object) -> None:
    text = json.dumps(finite(document), allow_nan=False)
    assert finite(json.loads(text)) == json.loads(text)
