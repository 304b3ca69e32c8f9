"""The command line's contract: exit codes, one JSON document, one line of complaint, no torch where none is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ropewalk
from ropewalk.cli.main import COMMANDS
from ropewalk.errors import UsageError
from tiny_configs import LLAMA as CONFIG


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def test_help_lists_every_command(cli):
    done = cli("--help")
    assert done.code == 0
    assert all(name in done.out for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_and_the_shared_options(cli, name):
    done = cli(name, "--help")
    assert done.code == 0
    assert "Usage:" in done.out


def test_methods_json(cli):
    document = cli("methods", "--json").json
    keys = {"name", "parameters", "paper", "needs_training", "contrib", "native"}
    assert all(keys <= set(row) for row in document["methods"])
    assert cli("methods", "yarn", "--json").json["methods"][0]["name"] == "yarn"
    assert {rule["name"] for rule in document["temperatures"]} >= {"log-n", "step-log"}


def test_methods_for_people(cli):
    assert "ntk-su" in cli("methods").out
    one = cli("methods", "yarn")
    assert "beta_fast" in one.out
    assert "arXiv:2309.00071" in one.out


def test_plan_json_and_recipe(cli, folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    done = cli("plan", folder, "--target", "8x", "-o", recipe, "--json")
    assert done.code == 0
    option = done.json["options"][0]
    assert {"method", "factor", "parameters", "out_of_bound_pairs", "effective_factor", "native"} <= set(
        option
    )
    assert {"method", "why"} <= set(done.json["recommendation"])
    assert recipe.exists()
    assert cli("plan", folder, "--target", "8x", "-o", recipe).code == 1
    assert cli("plan", folder, "--target", "8x", "-o", recipe, "--force").code == 0


def test_plan_for_people(cli, folder):
    done = cli("plan", folder, "--target", "4k", "--memory", "24GB")
    assert done.code == 0
    for said in ("512 -> 4k", "KV cache", "Begin with", "ropewalk compare"):
        assert said in done.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nonsense"], 2, "no command 'nonsense'"),
        (["metods"], 2, "did you mean methods"),
        (["methods", "yarm"], 2, "did you mean yarn"),
        (["methods", "--nope"], 2, "No such option"),
        (["plan"], 2, "Missing"),
        (["plan", "FOLDER"], 2, "Missing option"),
        (["plan", "FOLDER", "--target", "17"], 2, "target_length=17"),
        (["plan", "FOLDER", "--target", "x"], 2, "multiple"),
        (["plan", "FOLDER", "--target", "8x", "--memory", "much"], 2, "'much'"),
        (["plan", "FOLDER", "--target", "8x", "--gpus", "0"], 2, "--gpus"),
        (["plan", "/no/such/folder", "--target", "8x"], 1, "/no/such/folder"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_failures_are_one_line_with_the_right_code(cli, folder, words, code, said, as_json):
    words = [str(folder) if word == "FOLDER" else word for word in words] + (["--json"] if as_json else [])
    done = cli(*words)
    assert done.code == code
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err
    if as_json:
        assert done.json["exit_code"] == code
        assert {"type", "message", "hint"} <= set(done.json["error"])
    else:
        assert done.out == ""


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "ropewalk", "methods", "yarm", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_an_unexpected_failure_is_one_line_too(cli, monkeypatch):
    import importlib

    def broken():
        raise ValueError("a\nb")

    monkeypatch.setattr(importlib.import_module("ropewalk.methods"), "methods", broken)
    done = cli("methods", "--json")
    assert done.code == 1
    assert done.json["error"]["message"] == "ValueError: a b"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["methods"],
        ["methods", "--json"],
        ["plan", "FOLDER", "--target", "8x"],
        ["plan", "FOLDER", "--target", "8x", "--json"],
        ["inspect", "FOLDER"],
        ["inspect", "FOLDER", "--json"],
        ["export", "--format", "config", "FOLDER", "--method", "yarn", "--factor", "8"],
    ],
)
def test_light_commands_import_neither_torch_nor_transformers(folder, words):
    words = [str(folder) if word == "FOLDER" else word for word in words]
    code = (
        "import sys\n"
        "from ropewalk.cli.main import main\n"
        f"code = main({words!r})\n"
        "heavy = sorted({'torch', 'transformers', 'pydantic', 'accelerate'} & set(sys.modules))\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light():
    code = "import sys, ropewalk; sys.exit(sorted({'numpy', 'torch', 'click'} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rooms_are_reached_by_a_plain_import():
    code = (
        "import ropewalk; print(ropewalk.hemp.folder().name, hasattr(ropewalk, 'nothing'), ropewalk.report)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("model False <function report"), done.stderr


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m ropewalk methods --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_next_line_that_needs_weights_says_so_where_there_are_none(cli, folder):
    def line(model: str) -> str:
        printed = cli("plan", model, "--target", "4k").out
        return next(line for line in printed.splitlines() if line.startswith("  ropewalk compare"))

    assert line(str(folder)).endswith("# needs the weights in the same folder")
    assert line("hemp").split() == ["ropewalk", "compare", "hemp", "--target", "4096"]


@pytest.mark.parametrize("given", [b"/tmp/out", 5, ""])
def test_an_output_from_python_that_is_no_path_is_a_usage_error(given, tmp_path, monkeypatch):
    """Every verb that writes says so before it works; the demo took an empty name for none."""
    monkeypatch.chdir(tmp_path)
    hemp = {"lengths": [64], "tasks": "ppl", "max_segments": 1, "controls": False}
    verbs = [
        lambda: ropewalk.evaluate("hemp", output=given, **hemp),
        lambda: ropewalk.compare("hemp", target="2x", methods="yarn", tasks="ppl", output=given),
        lambda: ropewalk.export("hemp", "yarn", factor=4.0, to="vllm", output=given),
        lambda: ropewalk.plot("profile", "hemp", given),
        lambda: ropewalk.train("hemp", output=given),
    ]
    for verb in verbs:
        with pytest.raises(UsageError, match=r"^output=.* is not a path: give the path"):
            verb()
    with pytest.raises(UsageError, match=r"^recipe=.* is not a path: give the path"):
        ropewalk.train(given)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_not_the_default(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "output='' is not a path" in cli("demo", "-o", "").err
    for words in (("eval", "hemp"), ("verify", "http://127.0.0.1:9/v1", "--base", "hemp")):
        outcome = cli(*words, "--lengths", "")
        assert outcome.code == 2
        assert "length '' is not a number of tokens: write 4096, 4k" in outcome.err
    assert "are for servers, and this is a folder" in cli("verify", "hemp", "--lengths", "").err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        "text",
        "base",
        "schedule",
        "reference",
        "haystack",
        "questions",
        "tokenizer",
        "cache",
        "attention-temperature",
    ],
)
def test_an_empty_name_reads_nothing_else(cli, tmp_path, monkeypatch, option):
    """`--text "$UNSET"` read every text file of the present folder, other names were left out unsaid."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("private " * 500)
    done = cli("eval", "hemp", "--lengths", "64", "--tasks", "ppl", f"--{option}", " ")
    assert done.code == 2
    assert done.complaint.endswith("=' ' names nothing: give a name, or leave it out")


def test_empty_names_of_other_commands(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("private " * 500)
    tuned = cli("tune", "hemp", "--target", "2x", "--text", "", "-o", "run")
    assert (tuned.code, "text='' is not a path" in tuned.err) == (2, True)
    written = cli("generate", "hemp", "import", "--method", "", "--max-new-tokens", "1")
    assert (written.code, "no method ''" in written.err) == (2, True)


def test_a_demo_where_a_file_is_in_the_way_is_one_line(cli, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        done = cli("demo", "-o", place)
        assert done.code == 1
        assert done.complaint.startswith(f"ropewalk: cannot make the folder {place} (")
        assert done.complaint.endswith("): name another with -o")
