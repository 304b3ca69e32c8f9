"""metrics.jsonl: one JSON object a line, appended as training runs, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from ropewalk.files import write_text


class Metrics:
    """The metrics of a run; lines beyond the step of a resume are dropped before new ones follow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def open(self, *, after_step: int) -> None:
        """Keep the lines up to `after_step` and append from there."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= after_step]
        # Replaced as a whole: a kill here leaves the file as it was, or cut back.
        write_text(self.path, "".join(_line(line) for line in kept))
        self._stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - stays open for the run

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        assert self._stream is not None
        self._stream.write(_line(line))
        # Out of the process at every line, onto the disk only with a checkpoint (`sync`).
        self._stream.flush()

    def sync(self) -> None:
        """Make what was written durable."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    # A kill can cut the last line in the middle of a character.
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _line(line: dict[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"
