"""docs/runtimes.md: written from the facts and the last real run, with no promise that a run broke."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import ropewalk
from ropewalk.runtimes import facts_about, runtimes
from ropewalk.runtimes.environments import RUNNABLE, interpreter
from ropewalk.runtimes.proof import verify_runtimes

ROOT = Path(__file__).parents[2]


def tool():
    return runpy.run_path(str(ROOT / "tools" / "runtimes_page.py"))


def test_the_page_is_up_to_date():
    said = "run tools/runtimes_page.py"
    assert (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8") == tool()["page"](), said


def test_no_cell_was_run_and_found_wrong_where_exact_was_said():
    document = json.loads((ROOT / "docs" / "runtimes-measured.json").read_text(encoding="utf-8"))
    assert document["rows"]
    for row in document["rows"]:
        assert row["status"] == "pass" or not row["expected"].startswith("exact"), row


def test_every_known_architecture_has_its_row():
    page = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    for name, program in runtimes().items():
        if not name.startswith("transformers"):
            section = page.partition(f"### {program.title}\n")[2].partition("\n### ")[0]
            for architecture in facts_about(program).architectures:
                assert f"\n| {architecture} | " in section, (name, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNNABLE))
@pytest.mark.parametrize("method", ["linear", "yarn", "mrrope-pro"])
def test_the_real_program_gives_the_numbers_of_stock_transformers(name, method, tmp_path):
    if interpreter(name) is None:
        pytest.skip(f"{name} is not installed: make runtimes")
    ropewalk.extend("hemp", output=tmp_path / "out", factor=8.0, method=method)
    (check,) = verify_runtimes(tmp_path / "out", [name])
    assert check.status == "pass", check.detail
    assert set(check.by_length) == {1, 2, 4}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", list(RUNNABLE))
def test_the_real_program_in_half_precision_stays_within_its_tolerance_and_unscaled_far_outside(
    name, dtype, tmp_path, monkeypatch
):
    if interpreter(name) is None:
        pytest.skip(f"{name} is not installed: make runtimes")
    from ropewalk.runtimes import proof

    ropewalk.extend("hemp", output=tmp_path / "out", factor=8.0, method="yarn")
    (check,) = verify_runtimes(tmp_path / "out", [name], dtype)
    assert check.status == "pass", check.detail
    real = proof.export

    def unscaled(source, **given):
        none = ropewalk.schedule("none", ropewalk.read_geometry("hemp"), factor=1.0)
        return real("hemp", none, target=4096, **given)

    monkeypatch.setattr(proof, "export", unscaled)
    (wrong,) = verify_runtimes(tmp_path / "out", [name], dtype)
    assert wrong.status == "fail"
    assert wrong.mean > 2 * proof.TOLERANCES[dtype].mean


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlx", "llama.cpp"])
def test_a_wrong_schedule_fails_in_the_real_program(name, tmp_path, monkeypatch):
    """The very check that passes above fails where the program is handed another factor."""
    if interpreter(name) is None:
        pytest.skip(f"{name} is not installed: make runtimes")
    from ropewalk.runtimes import proof

    ropewalk.extend("hemp", output=tmp_path / "out", factor=8.0, method="yarn")
    real = proof.export

    def wrong(source, **given):
        return real(source, ropewalk.schedule("yarn", ropewalk.read_geometry("hemp"), factor=4.0), **given)

    monkeypatch.setattr(proof, "export", wrong)
    (check,) = verify_runtimes(tmp_path / "out", [name])
    assert check.status == "fail"
    assert check.largest > 0.01
