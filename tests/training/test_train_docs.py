"""Every recipe block and every weighting row on the page about the parts of training is one that a recipe accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ropewalk.training.options import WeightingOptions
from ropewalk.training.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "training-parts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
ROWS = re.findall(
    r"^\| `((?:shape|long_tokens|near|easy|input_noise|far_drop): \{.*?\})`", PAGE, flags=re.MULTILINE
)
BASE: dict[str, Any] = {
    "model": {"path": "anything"},
    "data": {"sources": [{"name": "corpus", "kind": "corpus"}]},
    "stages": [{"length": 512, "steps": 1}],
    "tokens_per_step": 512,
}


def test_the_page_has_examples():
    assert len(BLOCKS) >= 8
    assert len(ROWS) >= 7


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_part_of_a_recipe(block: str) -> None:
    Recipe.model_validate(BASE | yaml.safe_load(block))


@pytest.mark.parametrize("row", [row for row in ROWS if "..." not in row])
def test_every_weighting_row_is_accepted(row: str) -> None:
    WeightingOptions.model_validate(yaml.safe_load(row))
