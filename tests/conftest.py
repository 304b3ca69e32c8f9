"""What every test shares: no network, no wide tables, the command line as a function."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings

# On a runner the same examples each time; on a developer's machine new ones, which is where new faults are found.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reads tokens that an earlier one left in the user's cache, or leaves any there.
os.environ["ROPEWALK_CACHE"] = "none"


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a parallel run carry the terminal's width in COLUMNS, which pipes honour: tests name their own."""
    monkeypatch.delenv("COLUMNS", raising=False)


@dataclass(frozen=True)
class Outcome:
    """One call of the command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Stdout as the one JSON document that it must be."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def complaint(self) -> str:
        """The last line on stderr: what a user reads of a failure."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`cli("methods", "--json")` runs the command line in this process."""

    def call(*words: str) -> Outcome:
        from ropewalk.cli.main import main

        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
