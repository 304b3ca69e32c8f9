"""Breaks the lines that carry a claim, one at a time, and asks the default tests whether they notice.

    python tools/mutants_named.py                      every mutant of tools/mutants_named.toml
    python tools/mutants_named.py --only crop,holm     those with one of these words in their name

`tools/mutants.py` changes every operator of the mathematics; here people wrote down what must never pass unseen in
the rooms where a mutant costs a model: a line, what it may not become, the test files that must fail. A line that is no
longer there, or there twice, is an error, so that the list follows the source. Slow tests do not count.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import pytest
from mutants import SOURCE, Mutant, quiet_settings, survives

LIST = Path(__file__).with_suffix(".toml")


def broken(entry: dict[str, str]) -> ast.Module:
    """The file's tree with the entry's line exchanged."""
    source = (SOURCE / entry["file"]).read_text(encoding="utf-8")
    if source.count(entry["old"]) != 1:
        sys.exit(
            f"{entry['what']}: {entry['file']} holds this {source.count(entry['old'])} times: {entry['old']}"
        )
    return ast.parse(source.replace(entry["old"], entry["new"]))


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
    trees = [broken(entry) for entry in chosen]
    quiet_settings()
    # Imported before the children are made, so that a mutant costs its tests alone.
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    lived, began = 0, time.monotonic()
    for entry, tree in zip(chosen, trees, strict=True):
        mutant = Mutant("named", entry["file"], 0, entry["old"], entry["new"])
        with tempfile.TemporaryDirectory() as folder:
            noted = Path(folder) / "failed"
            alive = survives(mutant, tree, 300.0, tests=entry["tests"], plugins=[_Failed(noted)])
            by = noted.read_text(encoding="utf-8") if noted.exists() else ""
        # Without a failed test to name, the limit or an import stopped it: that shows nothing.
        word = "SURVIVED" if alive else "noticed" if by else "UNDECIDED"
        lived += word != "noticed"
        print(f"{word:9}  {entry['what']}{': ' if by else ''}{by}", flush=True)
    took = time.monotonic() - began
    print(f"{len(chosen) - lived} of {len(chosen)} noticed, {took:.0f} s")
    sys.exit(1 if lived else 0)


if __name__ == "__main__":
    main()
