"""Breaks the lines that carry a claim, one at a time, and asks the default tests whether they notice.

    python tools/mutants_named.py                      every mutant of tools/mutants_named.toml
    python tools/mutants_named.py --only crop,holm     those with one of these words in their name

`tools/mutants.py` changes every operator of the mathematics; here people wrote down what must never pass unseen in
the rooms where a mutant costs a model: a line, what it may not become, the test files that must fail. A line that is no
longer there, or there twice, is an error, so that the list follows the source. Slow tests do not count. The mutant lies
in a copy of the package that comes first on the path, so that processes which a test starts have it as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from mutant_tests import SOURCE, verdict_on
from mutants import quiet_settings

LIST = Path(__file__).with_suffix(".toml")


def broken(entry: dict[str, str]) -> str:
    """The file's text with the entry's line exchanged."""
    source = (SOURCE / entry["file"]).read_text(encoding="utf-8")
    if source.count(entry["old"]) != 1:
        sys.exit(
            f"{entry['what']}: {entry['file']} holds this {source.count(entry['old'])} times: {entry['old']}"
        )
    return source.replace(entry["old"], entry["new"])


def putting(file: str, text: str, folder: Path) -> Callable[[], None]:
    """What puts a package with one changed file first, for this process and those that it starts.

    All but the changed file and the folders above it are links.
    """
    here, there = SOURCE, folder / SOURCE.name
    for name in Path(file).parts:
        there.mkdir()
        for one in here.iterdir():
            if one.name not in (name, "__pycache__"):
                (there / one.name).symlink_to(one)
        here, there = here / name, there / name
    there.write_text(text, encoding="utf-8")

    def put() -> None:
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)

    return put


class _Failed:
    """A plugin that writes the first failed test down."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid.split("::", 1)[-1], encoding="utf-8")


def main() -> None:
    """Run the list and print one line a mutant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="words, one of which the name must hold")
    given = parser.parse_args()
    words = [word for word in given.only.split(",") if word]
    found = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]
    chosen = [entry for entry in found if not words or any(word in entry["what"] for word in words)]
    texts = [broken(entry) for entry in chosen]
    quiet_settings()
    # Imported before the children are made, so that a mutant costs its tests alone.
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    lived, began = 0, time.monotonic()
    for entry, text in zip(chosen, texts, strict=True):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            noted = folder / "failed"
            put = putting(entry["file"], text, folder)
            word = verdict_on(put, 300.0, tests=entry["tests"], plugins=[_Failed(noted)])
            by = noted.read_text(encoding="utf-8") if noted.exists() else ""
        # Without a failed test to name, an import stopped it: that shows nothing.
        word = "undecided" if word == "noticed" and not by else word
        lived += word != "noticed"
        print(f"{word:9}  {entry['what']}{': ' if by else ''}{by}", flush=True)
    took = time.monotonic() - began
    print(f"{len(chosen) - lived} of {len(chosen)} noticed, {took:.0f} s")
    sys.exit(1 if lived else 0)


if __name__ == "__main__":
    main()
