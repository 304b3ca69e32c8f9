"""CONTRIBUTING's pages on adding something, done as written by a stranger: in a package of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# In the order of the pages: the modules of the stranger's package, and the groups of their entry points.
MODULES = {
    "their_methods": "methods",
    "their_tasks": "tasks",
    "their_runtime": "runtimes",
    "their_parts": "parts",
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> dict[str, str]:
    """The environment of someone who has installed a package with everything that the pages print."""
    folder = tmp_path_factory.mktemp("stranger")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^   ```python\n(.*?)^   ```", text, flags=re.DOTALL | re.MULTILINE)
    for name, block in zip(MODULES, blocks, strict=True):
        (folder / f"{name}.py").write_text(textwrap.dedent(block), encoding="utf-8")
    [facts] = re.findall(r"^   ```json\n(.*?)^   ```", text, flags=re.DOTALL | re.MULTILINE)
    (folder / "half_serve.json").write_text(textwrap.dedent(facts), encoding="utf-8")
    told = folder / "their_package-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    groups = [f"[ropewalk.{group}]\ntheirs = {name}\n" for name, group in MODULES.items()]
    (told / "entry_points.txt").write_text("\n".join(groups))
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}", "COLUMNS": "200"}


def _done(stranger, *words, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, *words], env=stranger, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_method_is_there_with_its_parameter_and_its_example(stranger):
    shown = json.loads(_done(stranger, "-m", "ropewalk", "methods", "half-linear", "--json"))["methods"][0]
    assert shown["contrib"] is True
    assert [(found["name"], found["default"]) for found in shown["parameters"]] == [("strength", 0.5)]
    assert shown["parameters"][0]["about"].startswith("the share of the stretch")
    code = "import doctest, their_methods; print(doctest.testmod(their_methods))"
    assert "failed=0, attempted=2" in _done(stranger, "-c", code)


def test_it_plans_and_extends_like_any_other(stranger, tmp_path):
    planned = json.loads(_done(stranger, "-m", "ropewalk", "plan", "hemp", "--target", "8x", "--json"))
    assert "half-linear" in {option["method"] for option in planned["options"]}
    words = ["extend", "hemp", "--target", "4k", "--method", "half-linear", "-p", "strength=0.4", "-o", "OUT"]
    made = json.loads(_done(stranger, "-m", "ropewalk", *words, "--json", cwd=tmp_path))
    assert made["schedule"]["method"] == "half-linear"
    assert made["schedule"]["inv_freq"][0] == pytest.approx(8**-0.4)


def test_the_contract_test_runs_over_it(stranger):
    words = ["-m", "pytest", "-p", "no:cacheprovider", "tests/methods/test_methods_contract.py"]
    assert "4 passed" in _done(stranger, *words, "-k", "half-linear")


def test_the_task_is_asked_like_any_other(stranger, tmp_path):
    words = [
        "eval",
        "hemp",
        "--tasks",
        "locker",
        "--lengths",
        "256",
        "--samples",
        "1",
        "--depths",
        "2",
        "-o",
        "RUN",
    ]
    rows = json.loads(_done(stranger, "-m", "ropewalk", *words, "--json", cwd=tmp_path))["retrieval"]
    assert [(row["task"], row["depth"]) for row in rows] == [("locker", 0.0), ("locker", 1.0)]
    words = ["-m", "pytest", "-p", "no:cacheprovider", "tests/evaluation/test_eval_tasks.py", "-k", "locker"]
    assert " passed" in _done(stranger, *words)


def test_the_runtime_answers_with_its_facts(stranger):
    words = ["-m", "ropewalk", "export", "hemp", "--target", "4k", "--to", "half-serve", "--json", "--method"]
    [made] = json.loads(_done(stranger, *words, "linear"))["exports"]
    assert (made["status"], made["command"]) == ("exact", "half-serve DIR")
    assert made["content"]["rope_parameters"]["factor"] == 8
    # Nothing is known about its yarn, so nothing is written unasked.
    [made] = json.loads(_done(stranger, *words, "yarn", "--allow-approximate"))["exports"]
    assert made["status"] == "unknown"
    words = ["-m", "pytest", "-p", "no:cacheprovider", "tests/runtimes/test_runtimes_facts.py"]
    assert "1 passed" in _done(stranger, *words, "-k", "half-serve")


def test_the_part_is_switched_on_by_a_recipe(stranger, tmp_path):
    shown = _done(stranger, "-m", "ropewalk", "recipes", "show", "hemp")
    for share, code in (("0.2", 0), ("2", 2)):
        (tmp_path / "mine.yaml").write_text(f"{shown}\nparts: {{stutter: {{share: {share}}}}}\n")
        words = [sys.executable, "-m", "ropewalk", "recipes", "validate", "mine.yaml"]
        done = subprocess.run(words, env=stranger, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    words = ["-m", "pytest", "-p", "no:cacheprovider", "tests/training/test_train_batch_parts.py"]
    assert " passed" in _done(stranger, *words, "-k", "stutter")


def test_the_tools_that_the_page_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for tool in set(re.findall(r"tools/\w+\.py", text)):
        assert (ROOT / tool).is_file(), tool
    targets = set(re.findall(r"^    make ([a-z-]+)", text, flags=re.MULTILINE)) | {"mutants"}
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name}:", made, flags=re.MULTILINE) for name in targets)


@pytest.mark.parametrize(
    "place",
    ["methods", "evaluation/tasks", "runtimes/programs", "runtimes/facts", "training/parts/batch",
     "training/parts/loss", "training/parts/loss/options.py", "training/parts/options.py", "training/parts/parts.py"],
)  # fmt: skip
def test_the_places_that_the_page_names_are_there(place):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert place.rpartition("/")[2].removesuffix(".py") in text
    assert (ROOT / "src" / "ropewalk" / place).exists()
