"""Numbers that do not move: tests/golden/schedules.json, made by tools/goldens.py."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "schedules.json").read_text(encoding="utf-8"))
NOW = runpy.run_path(str(ROOT / "tools" / "goldens.py"))["goldens"]()


def test_every_method_has_its_goldens():
    assert sorted(NOW) == sorted(GOLDEN)


@pytest.mark.parametrize("key", sorted(GOLDEN))
def test_golden(key):
    assert NOW[key]["inv_freq"] == pytest.approx(GOLDEN[key]["inv_freq"], rel=1e-13, abs=0)
    assert NOW[key]["attention_factor"] == pytest.approx(GOLDEN[key]["attention_factor"], rel=1e-14)
