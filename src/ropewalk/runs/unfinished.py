"""Runs that have not ended, looked at as they stand: one that is going on, and one that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk.runs.documents import read_document
from ropewalk.runs.lock import is_held
from ropewalk.runs.store import FORMAT, MANIFEST, OPENING, REQUEST, StoredRun, open_run

# What a run writes line by line, readable at any moment.
METRICS = "metrics.jsonl"
RUNNING, UNFINISHED = "running", "unfinished"


def look_at_run(path: Path | str) -> StoredRun:
    """`open_run`; for a run without an end that wrote metrics, what is there so far, its files unchecked.

    Its status is `running` where a process holds its lock, `unfinished` otherwise.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file() or not (folder / METRICS).is_file() or not (folder / REQUEST).is_file():
        return open_run(folder)
    opening = read_document(folder / REQUEST)
    if not isinstance(opening, dict) or opening.get("format") != FORMAT:
        return open_run(folder)
    # The same keys that an ended run must have, so that whoever reads either may rely on them.
    if not all(isinstance(opening.get(key), kind) for key, kind in OPENING.items()):
        return open_run(folder)
    files: dict[str, Any] = {
        file.name: {"bytes": file.stat().st_size} for file in sorted(folder.iterdir()) if file.is_file()
    }
    status = RUNNING if is_held(folder) else UNFINISHED
    return StoredRun(folder, opening | {"status": status, "files": files})
