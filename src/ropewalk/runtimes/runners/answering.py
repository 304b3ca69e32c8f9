"""What every runner does with its jobs: a line for each item, with log probabilities or with the program's complaint.

Runners work in environments without this package, so they are scripts, and this file is found beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Of a long complaint the beginning says what was tried and the end what was wrong.
HEAD, TAIL = 150, 350


def answer(logprobs: Callable[[dict[str, Any]], Any], packages: tuple[str, ...]) -> None:
    """Ask for every item of the jobs file (the first word of the command line) and add its line to the second."""
    jobs, out = sys.argv[1:]
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    items = json.loads(Path(jobs).read_text(encoding="utf-8"))["items"]
    with Path(out).open("a", encoding="utf-8") as lines:
        for item in items:
            row: dict[str, Any] = {"name": item["name"], "versions": versions}
            try:
                row["logprobs"] = logprobs(item)
            # Whatever the program says of one model, the next one is still asked.
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                row["error"] = said if len(said) <= HEAD + TAIL else f"{said[:HEAD]} ... {said[-TAIL:]}"
            lines.write(json.dumps(row) + "\n")
            lines.flush()
