"""Tables by width: every value of a row is on the screen at any width, no word is cut, nothing is padded."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from ropewalk.cli.tables import Column, show_table

COLUMNS = [
    Column("method"),
    Column("parameters", below=2),
    Column("reaches", right=True),
    Column("carried by", below=1),
    Column(""),
]
ROWS = [
    ["yarn", "beta_fast 32, beta_slow 1, truncate True", "8x", "all", ""],
    ["ntk, reaching", "nominal factor 17", "any", "transformers, vllm, llama.cpp", "needs training"],
    ["linear", "-", "8x", "all", ""],
]


def _shown(width: int) -> list[str]:
    stream = io.StringIO()
    show_table(Console(file=stream, width=width), COLUMNS, ROWS, title="Methods")
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [140, 100, 80, 60, 50])
def test_every_value_stands_whole_within_the_width(width):
    lines = _shown(width)
    flat = " ".join(" ".join(lines).split())
    assert all(len(line) <= width for line in lines)
    for row in ROWS:
        assert all(cell in flat for cell in row if cell != "-"), (width, flat)


def test_columns_leave_in_their_order():
    wide, middle, narrow = _shown(140), _shown(80), _shown(50)
    assert "parameters" in wide[1]
    assert "carried by" in wide[1]
    assert "carried by" not in middle[1]
    assert "parameters" in middle[1]
    assert middle[3].strip() == "carried by all"
    assert "parameters" not in narrow[1]
    assert narrow[3].strip().startswith("parameters beta_fast 32")
    # An empty value has no line of its own.
    assert sum("parameters -" in line for line in narrow) == 0


def test_columns_stay_aligned_around_the_lines_between():
    narrow = _shown(50)
    ends = {line.rstrip().find("8x") for line in narrow if "8x" in line and not line.startswith(" ")}
    assert len(ends) == 1


@pytest.mark.parametrize("columns", ["50", "70", "", "no"])
def test_piped_output_honours_columns_and_pads_nothing(columns):
    environment = os.environ | {"COLUMNS": columns}
    command = [sys.executable, "-m", "ropewalk", "methods"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line != line.rstrip()]
    limit = int(columns) if columns.isdigit() else 140
    assert max(len(line) for line in lines) <= limit
