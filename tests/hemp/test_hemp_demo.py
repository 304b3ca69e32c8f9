"""`ropewalk demo`: the whole tour on the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.cli import demo
from ropewalk.runs import open_run


@pytest.mark.slow
def test_the_tour_from_nothing_to_a_verdict(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli("demo", "--json", "-q")
    assert outcome.code == 0, outcome.err
    document = outcome.json
    assert [step["command"][0] for step in document["steps"]] == [
        "inspect",
        "compare",
        "extend",
        "verify",
        "report",
    ]
    assert all(step["code"] == 0 for step in document["steps"])
    assert document["verdict"]["text"]
    assert open_run(document["compare"]).status == "complete"
    assert (tmp_path / document["extended"] / "config.json").is_file()
    assert "<html" in (tmp_path / document["report"]).read_text(encoding="utf-8")[:500].lower()

    again = cli("demo", "-o", "demo-out", "-q")
    assert again.code == 0, again.err
    assert "Done in" in again.out
    assert document["verdict"]["summary"].split(".")[0] in " ".join(again.out.split())


def test_a_new_demo_never_writes_into_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo._fresh_folder() == Path("demo-out")
    (tmp_path / "demo-out").mkdir()
    (tmp_path / "demo-out-2").mkdir()
    assert demo._fresh_folder() == Path("demo-out-3")


def test_an_unfinished_comparison_is_not_taken_for_a_result(tmp_path: Path) -> None:
    assert demo._finished(tmp_path / "compare") is None
