"""`ropewalk train` and `ropewalk recipes` as a stranger meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ropewalk.runs import create_run, list_runs

Tiny = Callable[..., dict[str, Any]]
Cli = Callable[..., Any]


@pytest.fixture
def recipe(tiny: Tiny, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny(stages=[{"length": 32, "steps": 3}])), encoding="utf-8")
    return path


def test_train_prints_one_document(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("train", recipe, "-o", tmp_path / "run", "--json", "-q")
    assert done.code == 0, done.err
    document = done.json
    assert document["run"] == str(tmp_path / "run")
    assert document["checkpoints"] == [str(tmp_path / "run" / "checkpoints" / "step-000003")]
    assert document["final"]["step"] == 3
    assert document["final"]["path"] == document["checkpoints"][-1]
    assert (
        json.loads((tmp_path / "run" / "result.json").read_text())["final"]["loss"]
        == document["final"]["loss"]
    )


def test_train_tells_progress_on_stderr(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    done = cli("train", recipe, "-o", tmp_path / "run")
    assert done.code == 0
    assert done.out.startswith(str(tmp_path / "run" / "checkpoints"))
    assert "step 3/3  loss" in done.err
    assert "tokens/s" in done.err


def test_train_goes_to_the_runs_folder_by_default(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWALK_RUNS", str(tmp_path / "runs"))
    done = cli("train", recipe, "--json", "-q")
    assert Path(done.json["run"]).parent == tmp_path / "runs"
    assert [entry.kind for entry in list_runs(tmp_path / "runs")] == ["train"]


def test_resume_of_a_finished_run_says_so(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    first = cli("train", recipe, "-o", tmp_path / "run", "--json", "-q")
    again = cli("train", "--resume", "-o", tmp_path / "run", "--json", "-q")
    assert again.code == 0
    assert again.json == first.json
    assert "already finished" in again.err
    taken = cli("train", recipe, "-o", tmp_path / "run", "-q")
    assert taken.code == 1
    assert "--resume" in taken.complaint


def test_a_run_of_another_kind_is_not_resumed(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    with create_run("eval", {"model": "x"}, path=tmp_path / "run"):
        pass
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    done = cli("train", recipe, "--resume", "-o", tmp_path / "run")
    assert done.code == 1
    assert done.complaint == (
        f"ropewalk: {tmp_path / 'run'} is a run of eval, not of train: choose another output, or its own folder"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("way", ["context", "sequence"])
def test_one_process_shares_no_rows(cli: Cli, tiny: Tiny, tmp_path: Path, way: str) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(yaml.safe_dump(tiny(engine={f"{way}_parallel": 4})))
    done = cli("train", path, "-o", tmp_path / "run")
    assert done.code == 2
    assert (
        f"{way}_parallel=4 shares each row by 4 processes, and this is one: accelerate launch"
        in done.complaint
    )
    assert not (tmp_path / "run").exists()
    path.write_text(yaml.safe_dump(tiny(engine={f"{way}_parallel": 1}, stages=[{"length": 32, "steps": 1}])))
    assert cli("train", path, "-o", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"tokens_per_step": 16}, 2, "cannot hold one"),
        ({"optimiser": {}}, 2, "did you mean optimizer"),
        ({"rope": {"method": "yran", "factor": 2}}, 2, "yarn"),
        ({"model": {"path": "./absent"}}, None, "absent"),
        ({"model": {"init": {"model_type": "llamma"}, "tokenizer": "TOKENIZER"}}, 2, "llamma"),
        ({"data": {"sources": [{"name": "a", "kind": "text", "paths": ["./absent.txt"]}]}}, 2, "absent.txt"),
        (
            {"data": {"sources": [{"name": "a", "kind": "generated", "generator": "b"}]}},
            2,
            "no generator 'b'",
        ),
    ],
)
def test_bad_recipes_are_one_line(
    cli: Cli,
    tiny: Tiny,
    tmp_path: Path,
    byte_tokenizer: Path,
    change: dict[str, Any],
    code: int | None,
    words: str,
) -> None:
    text = yaml.safe_dump(tiny(**change)).replace("TOKENIZER", str(byte_tokenizer))
    (tmp_path / "bad.yaml").write_text(text)
    done = cli("train", tmp_path / "bad.yaml", "-o", tmp_path / "run", "--json")
    assert done.code == code if code is not None else done.code in (1, 2)
    assert words in done.json["error"]["message"] + str(done.json["error"]["hint"])
    assert words in done.complaint
    assert "\n" not in done.json["error"]["message"]


def test_train_without_a_recipe(cli: Cli, tmp_path: Path) -> None:
    assert cli("train").code == 2
    assert cli("train", tmp_path / "absent.yaml").code == 2
    assert cli("train", "--resume").code == 2


def test_generators_of_a_module_of_ones_own(
    cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_generators.py").write_text(
        "from ropewalk.text.generators import source\n"
        "@source('counting')\n"
        "def counting(rng, tokenizer, length):\n"
        "    return list(range(length))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = tiny(stages=[{"length": 32, "steps": 1}])
    recipe["data"]["sources"] = [{"name": "c", "kind": "generated", "generator": "counting"}]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("train", tmp_path / "r.yaml", "-o", tmp_path / "run", "--import", "my_generators", "-q")
    assert done.code == 0, done.err
    assert cli("train", tmp_path / "r.yaml", "--import", "absent_module").code == 2


def test_recipes_ls_and_show(cli: Cli) -> None:
    rows = cli("recipes", "ls", "--json").json["recipes"]
    assert "hemp" in {row["name"] for row in rows}
    assert "hemp" in cli("recipes", "ls").out
    for row in rows:
        shown = cli("recipes", "show", row["name"]).out
        assert yaml.safe_load(shown)["stages"]
        assert cli("recipes", "show", row["name"], "--json").json["recipe"]["tokens_per_step"] > 0
    assert cli("recipes", "show", "absent").code == 2


def test_recipes_validate(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    assert cli("recipes", "validate", recipe, "hemp").code == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(recipe.read_text() + "surplus: 1\nmore: 2\n")
    done = cli("recipes", "validate", recipe, bad, "--json")
    assert done.code == 2
    assert not done.json["valid"]
    faults = done.json["recipes"][1]["faults"]
    assert {fault["field"] for fault in faults} == {"surplus", "more"}
    lines = bad.read_text().splitlines()
    assert all(lines[fault["line"] - 1].startswith(fault["field"]) for fault in faults)
    assert f"{bad}:{faults[0]['line']}: " in cli("recipes", "validate", bad).out


def test_report_to_gets_the_metrics(
    cli: Cli, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import tracking
    from accelerate.utils import LoggerType

    seen: list[dict[str, float]] = []

    class Recorder(tracking.GeneralTracker):  # type: ignore[misc]
        name, requires_logging_directory, tracker = "tensorboard", True, None

        def __init__(self, run_name: str, logging_dir: str) -> None:
            super().__init__()
            assert logging_dir == str(tmp_path / "run" / "trackers")

        def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
            seen.append(values)

        def finish(self) -> None:
            seen.append({"finished": 1})

    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny(stages=[{"length": 32, "steps": 3}], report_to=["tensorboard"])))
    assert cli("train", path, "-o", tmp_path / "run", "-q").code == 0
    assert [line["tokens"] for line in seen if "grad_norm" in line] == [128, 256, 384]
    assert seen[-1] == {"finished": 1}
    path.write_text(yaml.safe_dump(tiny(report_to=["nonsense"])))
    done = cli("train", path, "-o", tmp_path / "other", "-q")
    assert done.code == 2
    assert "nonsense" in done.complaint
