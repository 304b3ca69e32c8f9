"""CONTRIBUTING's page on adding a method, done as written by a stranger: in a package of their own."""

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


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> dict[str, str]:
    """The environment of someone who has installed a package with the page's method in it."""
    folder = tmp_path_factory.mktemp("stranger")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    (folder / "their_methods.py").write_text(textwrap.dedent("   " + block[1].strip()), encoding="utf-8")
    told = folder / "their_package-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[ropewalk.methods]\ntheirs = their_methods\n")
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


def test_the_tools_that_the_page_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for tool in set(re.findall(r"tools/\w+\.py", text)):
        assert (ROOT / tool).is_file(), tool
    targets = set(re.findall(r"^    make ([a-z-]+)", text, flags=re.MULTILINE)) | {"mutants"}
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name}:", made, flags=re.MULTILINE) for name in targets)


@pytest.mark.parametrize(
    "place",
    ["methods", "evaluation/tasks/registry.py", "evaluation/tasks/passkey.py", "runtimes/programs", "runtimes/facts",
     "training/recipe/options.py", "training/parts", "training/parts/parts.py"],
)  # fmt: skip
def test_the_places_that_the_page_names_are_there(place):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert place.rpartition("/")[2].removesuffix(".py") in text
    assert (ROOT / "src" / "ropewalk" / place).exists()
