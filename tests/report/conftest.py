"""Sample runs with made-up numbers, and a real Chromium. Nothing here is a measurement."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_runs import write_compare, write_eval, write_train, write_tune, write_verify


@pytest.fixture(scope="session")
def sample_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished run of every kind."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "eval": write_eval(root),
        "compare": write_compare(root),
        "train": write_train(root),
        "verify": write_verify(root),
        "tune": write_tune(root),
    }


def _chromium() -> str | None:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        for words in (["update", "-q"], ["install", "-y", "-q", "chromium"]):
            subprocess.run(["apt-get", *words], check=False, capture_output=True, timeout=300)
        found = shutil.which("chromium")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium. Without one: skipped with the reason, and failed where CI is set."""
    reason = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "playwright is not installed: pip install 'ropewalk[dev]'"
    path = _chromium()
    if reason is None and path is None:
        reason = "no Chromium: apt-get install chromium (tried, where root and apt are there)"
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def make() -> dict[str, Callable[..., Path]]:
    """The writers of sample runs, for tests that need their own."""
    return {
        "eval": write_eval,
        "compare": write_compare,
        "train": write_train,
        "verify": write_verify,
        "tune": write_tune,
    }
