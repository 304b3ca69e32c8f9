"""The mutants that people wrote down follow the source: each exchanges a line that is there, once."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = tomllib.loads((ROOT / "tools" / "mutants_named.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("entry", NAMED, ids=[entry["what"] for entry in NAMED])
def test_a_named_mutant_exchanges_one_line_and_names_tests_that_are_there(entry):
    source = (ROOT / "src" / "ropewalk" / entry["file"]).read_text(encoding="utf-8")
    assert source.count(entry["old"]) == 1
    assert entry["new"] != entry["old"]
    assert all((ROOT / test.partition("::")[0]).exists() for test in entry["tests"])
