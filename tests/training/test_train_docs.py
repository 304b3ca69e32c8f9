"""Every recipe in docs/train.md is a valid one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ropewalk.training.recipe.presets import validate_recipe

PAGE = Path(__file__).parents[2] / "docs" / "train.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_has_recipes() -> None:
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_recipes_of_the_page_are_valid(tmp_path: Path, number: int) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(BLOCKS[number], encoding="utf-8")
    assert validate_recipe(path)["faults"] == []
