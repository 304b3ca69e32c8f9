"""The page: one file, the same bytes, every number traceable, damaged runs named, nothing of a run believed."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.cli.main import main
from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.report.figure import Figure
from ropewalk.report.page import document
from ropewalk.report.page.build import build
from ropewalk.report.page.content import CONTENT, Content, number_cell, shown_number, value_cell
from ropewalk.report.render.plotly import panels
from ropewalk.report.views import RunView
from ropewalk.runs import create_run
from ropewalk.runs.documents import finite
from ropewalk.runs.lock import run_lock
from ropewalk.runs.store import KINDS


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def visible(path: Path) -> str:
    """The page's text without scripts, style and tags."""
    content = re.sub(r"<(script|style)\b.*?</\1>", "", text_of(path), flags=re.S)
    return html.unescape(re.sub(r"<[^>]*>", " ", content))


@pytest.fixture(scope="module")
def whole(sample_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over every kind of run."""
    output = tmp_path_factory.mktemp("page") / "whole.html"
    ropewalk.report(list(sample_runs.values()), output)
    return output


def test_every_kind_has_its_page() -> None:
    assert set(CONTENT) == set(KINDS)


def test_the_verdict_comes_first(whole: Path) -> None:
    text = visible(whole)
    verdict = text.index("For text, yarn is best at 4k tokens.")
    assert (
        verdict
        < text.index("Side by side")
        < text.index("Loss by length")
        < text.index("What was asked and done")
    )
    for said in (
        "Usable up to 4k tokens: both hold at every tested length, up to 4k.",
        "1 of 2 checks failed: stock reload.",
        "The search lowered the loss",
    ):
        assert said in text
    assert "Held-out loss fell from 2.900 to 2.000 nats per token." in text
    assert "ropewalk eval tiny --lengths 512..4k" in text


def test_a_second_making_gives_the_same_bytes(
    sample_runs: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    ropewalk.report(list(sample_runs.values()), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == whole.read_bytes()


def test_other_processes_give_the_same_bytes(
    sample_runs: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "other.html"
    command = [sys.executable, "-m", "ropewalk", "report", *map(str, sample_runs.values()), "-o", str(output)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert output.read_bytes() == whole.read_bytes()


def test_it_is_one_small_file_that_names_no_other(whole: Path) -> None:
    assert whole.stat().st_size < 6 * 1024**2
    outside = re.sub(r'<script type="application/(json|gzip)".*?</script>', "", text_of(whole), flags=re.S)
    assert not re.findall(r'(?:src|href|action)\s*=\s*"(?!#)[^"]*"', outside)
    assert "http://" not in outside
    assert "https://" not in outside


def test_the_policy_names_exactly_what_is_inside(whole: Path) -> None:
    content = text_of(whole)
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content)[0])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    script = re.findall(r"<script>(.*?)</script>", content, flags=re.S)
    style = re.findall(r"<style>(.*?)</style>", content, flags=re.S)
    assert len(script) == len(style) == 1
    for text, rule in ((script[0], rules["script-src"]), (style[0], rules["style-src-elem"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rule


def test_every_number_names_its_source_and_the_source_holds_it(
    sample_runs: dict[str, Path], whole: Path
) -> None:
    found = re.findall(r'title="(e1|c1)/result\.json(/[^"]+)">([^<]+)</', text_of(whole))
    assert len(found) > 60
    checked = 0
    for run, path, shown in found:
        kind = {"e1": "eval", "c1": "compare"}[run]
        value: Any = json.loads((sample_runs[kind] / "result.json").read_text())
        for step in path.strip("/").split("/"):
            value = value[int(step)] if isinstance(value, list) else value[step]
        if isinstance(value, float):
            number = re.match(r"[-+]?[\d.]+(e-?\d+)?", shown.replace("\u202f", ""))
            assert number is not None, (path, shown)
            assert float(number.group(0)) == pytest.approx(value, abs=0.006)
            checked += 1
    assert checked > 40


def test_hostile_text_stays_text(make: dict[str, Any], tmp_path: Path) -> None:
    from sample_runs import HOSTILE

    runs = [make["eval"](tmp_path, HOSTILE, "h1"), make["compare"](tmp_path, HOSTILE, "h2")]
    runs.append(make["verify"](tmp_path, "h3", HOSTILE))
    ropewalk.report(runs, tmp_path / "h.html", title=HOSTILE)
    content = text_of(tmp_path / "h.html")
    assert "<script>window" not in content
    assert "<img" not in content
    assert html.escape("<script>window.hacked = 1</script>") in content
    data = re.findall(r'<script type="application/json" id="data">(.*?)</script>', content, flags=re.S)
    assert len(data) == 1
    assert "\u2028" not in data[0]
    assert json.loads(data[0])["figures"]


def damaged_runs(root: Path) -> dict[str, Path]:
    """Folders that are no readable run, by what is wrong with them."""
    found = {name: root / name for name in ("empty", "flipped", "newer", "half", "strange")}
    for name in ("flipped", "newer", "half"):
        with create_run("eval", {"model": name}, path=root / name) as run:
            run.write_json("result.json", {"loss": []})
    (root / "empty").mkdir()
    (root / "strange").mkdir()
    (root / "strange" / "photo.jpg").write_bytes(b"x")
    (root / "flipped" / "result.json").write_text('{\n  "loss": 1}\n')
    manifest = root / "newer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("ropewalk-run/1", "ropewalk-run/9"))
    (root / "half" / "manifest.json").unlink()
    return found


def test_damaged_runs_are_named_and_the_rest_is_made(
    make: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = damaged_runs(tmp_path)
    good = make["eval"](tmp_path)
    output = tmp_path / "r.html"
    names = [str(path) for path in [*bad.values(), tmp_path / "none", good]]
    assert main(["report", *names, "-o", str(output)]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 6
    assert all(line.startswith("ropewalk: warning: ") for line in warnings)
    text = visible(output)
    for said in (
        "empty folder",
        "result.json",
        "ropewalk-run/9",
        "never ended",
        "is no run folder",
        "no run ",
    ):
        assert said in text
    for name in bad:
        assert name in text
    assert "Usable up to 4k tokens: both hold at every tested length, up to 4k." in text


def test_no_readable_run_is_a_failure_and_writes_nothing(tmp_path: Path) -> None:
    bad = damaged_runs(tmp_path)
    output = tmp_path / "r.html"
    assert main(["report", *map(str, bad.values()), "-o", str(output)]) == 3
    assert main(["report", str(tmp_path / "none"), "-o", str(output)]) == 1
    assert main(["report", "-o", str(output)]) == 2
    assert not output.exists()
    with pytest.raises(DamagedError):
        ropewalk.report(bad["half"], output)
    with pytest.raises(UsageError):
        ropewalk.report([], output)


def test_json_of_the_command(
    make: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make["eval"](tmp_path)
    assert main(["report", str(good), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["e1"]
    assert found["problems"] == []
    assert found["bytes"] == (tmp_path / "r.html").stat().st_size


def failing(path: Path) -> None:
    with create_run("eval", {"model": "tiny"}, path=path) as run:
        run.write_json("notes.json", {})
        raise ValueError("<script>alert(1)</script> went wrong")


def test_a_failed_run_shows_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="went wrong"):
        failing(tmp_path / "f1")
    ropewalk.report(tmp_path / "f1", tmp_path / "f.html")
    text = visible(tmp_path / "f.html")
    assert "This run failed: <script>alert(1)</script> went wrong." in text
    assert "Traceback (most recent call last)" in text


def test_an_interrupted_run_shows_what_it_has(tmp_path: Path) -> None:
    from sample_runs import compare_document

    def interrupt() -> None:
        with create_run("compare", {"model": "tiny"}, path=tmp_path / "i1") as run:
            run.write_json("result.json", compare_document())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    ropewalk.report(tmp_path / "i1", tmp_path / "i.html")
    text = visible(tmp_path / "i.html")
    assert text.index("This run was interrupted.") < text.index("For text, yarn is best at 4k tokens.")


def test_a_figure_without_data_says_what_to_run(make: dict[str, Any], tmp_path: Path) -> None:
    ropewalk.report(make["eval"](tmp_path, health=None), tmp_path / "r.html")
    text = visible(tmp_path / "r.html")
    assert "Not drawn: no attention entropy in this run." in text
    assert "`ropewalk eval MODEL --lengths 4k..32k --health` measures it." in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "result", [{}, [], {"methods": 3, "checks": "x", "verdict": 5, "final": [], "before": {}}]
)
def test_strange_results_make_a_page_all_the_same(tmp_path: Path, kind: str, result: Any) -> None:
    with create_run(kind, {"model": ["odd"], "lengths": "x"}, path=tmp_path / "s") as run:
        run.write_json("result.json", result)
    page = build([tmp_path / "s"])
    assert len(page.runs) == 1
    assert isinstance(page.runs[0].content, Content)
    assert page.runs[0].content.verdict.headline


ANYTHING: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    "",
    "x",
    [],
    {},
    [None],
    [1, "a"],
    [[{}]],
    {"a": 1},
]


@pytest.mark.parametrize("kind", ["eval", "compare"])
def test_any_change_to_a_result_makes_a_page_all_the_same(kind: str) -> None:
    """Leaves and branches of a good document replaced by anything: tables and figures cope."""
    from sample_runs import compare_document, eval_document

    rng = random.Random(0)
    for _ in range(150):
        result = eval_document() if kind == "eval" else compare_document()
        for _ in range(rng.randint(1, 4)):
            _change(result, rng)
        view = RunView("r", kind, "tiny", {"model": "tiny"}, json.loads(json.dumps(finite(result))))
        content = CONTENT[kind](view)
        assert content.verdict.headline
        for table in content.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
        for figure in content.figures:
            if isinstance(figure, Figure):
                json.dumps(panels(figure), allow_nan=False)


def _change(document: Any, rng: random.Random) -> None:
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(document[key], dict | list) or rng.random() < 0.25:
            document[key] = copy.deepcopy(rng.choice(ANYTHING))
            return
        document = document[key]


def test_text_that_utf8_cannot_hold(tmp_path: Path) -> None:
    with create_run(
        "eval", {"model": "a\udcff"}, path=tmp_path / "s", command="ropewalk eval a\udcff"
    ) as run:
        run.write_json("result.json", {"verdict": ["\ud800"]})
    ropewalk.report(tmp_path / "s", tmp_path / "s.html", title="\udcff")
    assert "ropewalk eval a?" in visible(tmp_path / "s.html")


def test_several_runs_stand_side_by_side(make: dict[str, Any], tmp_path: Path) -> None:
    runs = [make["eval"](tmp_path, "one", "e1"), make["eval"](tmp_path, "two", "e2")]
    page = build(runs)
    assert page.beside is not None
    assert [column.label for column in page.beside.columns] == ["", "e1", "e2"]
    assert "effective length" in [row[0].text for row in page.beside.rows]
    assert page.differences is not None
    assert [cell.text for cell in page.differences.rows[0]] == ["model", "one", "two"]
    assert [figure.kind for figure in page.together] == ["loss-length", "loss-position"]
    assert len(build([runs[0], runs[0], str(runs[0]) + "/."]).runs) == 1


def test_too_large_a_page_is_refused(
    make: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MAX_BYTES", 1024**2)
    with pytest.raises(RopewalkError, match="more than 1") as caught:
        ropewalk.report(make["eval"](tmp_path), tmp_path / "r.html")
    assert "fewer runs" in str(caught.value.hint)
    assert not (tmp_path / "r.html").exists()


def test_numbers_are_written_for_reading() -> None:
    assert shown_number(2.34567) == "2.346"
    assert shown_number(1234567) == "1\u202f234\u202f567"
    assert shown_number(1e-7) == "1e-07"
    assert shown_number(1e-17) == "0.000"
    assert number_cell(float("nan")).text == "–"
    assert value_cell(None).text == "–"
    assert value_cell(True).text == "yes"


def test_a_view_names_its_model_shortly() -> None:
    assert RunView("r", "eval", "s", {"model": "org/name"}, {}).model == "name"
    assert RunView("r", "eval", "s", {"model": "/a/b/c/"}, {}).model == "c"
    assert RunView("r", "eval", "s", {}, {}).model == "s"
    assert len(RunView("r", "eval", "s", {"model": "x" * 90}, {}).model) == 40


def test_a_training_that_has_not_ended_has_its_page(make: dict[str, Any], tmp_path: Path) -> None:
    """Killed, and going on; without a measurement before the first step nothing "fell from" anything."""
    run = make["train"](tmp_path)
    (run / "manifest.json").unlink()
    (run / "result.json").unlink()
    ropewalk.report(run, tmp_path / "killed.html")
    assert "Held-out loss fell from 2.900 to 2.000" in visible(tmp_path / "killed.html")
    assert "This run never ended." in visible(tmp_path / "killed.html")
    assert "The run has not ended (unfinished): so it stood at step 90." in visible(tmp_path / "killed.html")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[1:40]) + '\n{"step": 40, "lo')
    with run_lock(run):
        ropewalk.report(run, tmp_path / "running.html")
    text = visible(tmp_path / "running.html")
    assert "Training loss ended at" in text
    assert "fell from" not in text
    assert "The run has not ended (running): so it stood at step 38." in text
    assert "This run is still going on." in text
    assert "failed" not in text


def test_a_page_replaces_a_page_and_no_other_file(sample_runs: dict[str, Path], tmp_path: Path) -> None:
    """Written to RUN/manifest.json it left the run unreadable."""
    run = tmp_path / "run"
    shutil.copytree(sample_runs["eval"], run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for name in ("manifest.json", "result.json"):
        with pytest.raises(UsageError, match=f"{name} is there and is no page: choose another output"):
            ropewalk.report(run, run / name)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    page = tmp_path / "page.html"
    page.touch()
    first = ropewalk.report(run, page).bytes
    assert ropewalk.report(run, page, title="Another").bytes != first
    assert b"Another" in page.read_bytes()


@pytest.mark.parametrize("found", [1e308, "gpu", {"a": 1}, None])
def test_a_manifest_whose_accelerators_are_no_list_is_shown(
    sample_runs: dict[str, Path], tmp_path: Path, found: object
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_runs["eval"], run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["hardware"] = {"system": "Linux", "accelerators": found}
    (run / "manifest.json").write_text(json.dumps(manifest))
    ropewalk.report(run, tmp_path / "page.html")
    assert "no accelerator" in (tmp_path / "page.html").read_text()
