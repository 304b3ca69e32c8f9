"""Every family that is converted, in llama.cpp itself: what comes out is what stock transformers says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import ropewalk
from ropewalk.runtimes import TOLERANCE, facts_about, find_runtime
from ropewalk.runtimes.environments import interpreter
from ropewalk.runtimes.gguf.families import families
from ropewalk.runtimes.proof import verify_runtimes

ROOT = Path(__file__).parents[2]
VARIANTS = (
    "llama-tied",
    "cohere2-window",
    "gemma2-window",
    "falcon-grouped",
    "gpt_neox-serial",
    "stablelm-parallel",
)


def test_every_family_is_named_on_the_page_and_was_run():
    section = (
        (ROOT / "docs" / "runtimes.md")
        .read_text(encoding="utf-8")
        .partition("## GGUF")[2]
        .partition("\n## ")[0]
    )
    known = facts_about(find_runtime("llama.cpp"))
    for name in families():
        assert f"`{name}`" in section, name
        fact = known.of(name, "default")
        assert (fact.outcome, fact.known_by.kind) == ("exact", "measured"), name


def tool(name):
    sys.path[:0] = [str(ROOT / "tools" / "runtimes")]
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / "runtimes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", [*families(), *VARIANTS])
def test_llama_cpp_computes_what_was_converted(tmp_path, monkeypatch, name):
    python = interpreter("llama.cpp")
    if python is None:
        pytest.skip("llama.cpp is not installed here")
    zoo, measure = tool("zoo"), tool("measure")
    monkeypatch.setattr(zoo, "CASES", {case: zoo.CASES[case] for case in ("none", "linear")})
    zoo.make(name, tmp_path)
    rows = {row["case"]: row for row in measure.measure(find_runtime("llama.cpp"), python, tmp_path)
            if row["way"] == "metadata"}  # fmt: skip
    architecture = name.partition("-")[0]
    assert max(rows["none"]["differences"]) <= TOLERANCE
    linear = facts_about(find_runtime("llama.cpp")).of(architecture, "linear")
    agrees = max(rows["linear"]["differences"]) <= TOLERANCE
    assert agrees == (linear.outcome == "exact"), rows["linear"]
    assert rows["linear"]["scale"] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_verify_runs_models_without_sdpa_and_allows_for_known_rounding(tmp_path, monkeypatch, name):
    if interpreter("llama.cpp") is None:
        pytest.skip("llama.cpp is not installed here")
    zoo, measure = tool("zoo"), tool("measure")
    monkeypatch.setattr(zoo, "CASES", {"none": zoo.CASES["none"]})
    zoo.make(name, tmp_path / "zoo")
    base = tmp_path / "zoo" / "base"
    measure.give_tokenizer(base)
    ropewalk.extend(base, output=tmp_path / "out", method="yarn", factor=4.0)
    (check,) = verify_runtimes(tmp_path / "out", ["llama.cpp"])
    assert check.status == "pass", check.detail
    assert (check.rounding > 0) == (name == "gemma2")
