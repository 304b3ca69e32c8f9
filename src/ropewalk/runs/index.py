"""The list of runs: a sqlite file that caches manifests; the folders stay the truth and always rebuild it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError
from ropewalk.runs.store import LISTED, MANIFEST, REQUEST, read_manifest, runs_root
from ropewalk.units import format_length

INDEX = ".index.sqlite"
# The number in the name is the layout's: another version makes a table of its own and never misreads this one.
_TABLE = "CREATE TABLE IF NOT EXISTS runs_1 (id TEXT PRIMARY KEY, stamp TEXT NOT NULL, entry TEXT NOT NULL)"


@dataclass(frozen=True)
class RunEntry:
    """One line of the list. `problem` says what is wrong with a folder that holds no readable run."""

    id: str
    path: str
    kind: str
    status: str
    created: str
    seconds: float | None
    subject: str
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For `runs ls --json`."""
        return asdict(self)


def list_runs(root: Path | str | None = None, *, kind: str | None = None) -> list[RunEntry]:
    """Every run under `root` (default $ROPEWALK_RUNS, or ./runs), newest first, damaged ones named.

    Files are not hashed here; `open_run` does that.
    """
    folder = runs_root(root)
    if not folder.is_dir():
        return []
    entries = _through_index(folder)
    chosen = [entry for entry in entries if kind is None or entry.kind == kind]
    return sorted(chosen, key=lambda entry: (entry.created, entry.id), reverse=True)


def find_run(name: str | Path, root: Path | str | None = None) -> Path:
    """The folder of a run given as a path, an id or a unique part of one; `last` is the newest."""
    # A path first, so that a folder outside the root needs no id.
    path = Path(name)
    if path.is_dir():
        return path
    text = str(name)
    entries = list_runs(root)
    if text == "last" and entries:
        return Path(entries[0].path)
    exact = [entry for entry in entries if entry.id == text]
    # Ends as well as beginnings: ids begin with a date, which all runs of a day share.
    near = exact or [entry for entry in entries if entry.id.startswith(text) or entry.id.endswith(text)]
    if len(near) == 1:
        return Path(near[0].path)
    if near:
        shown = ", ".join(entry.id for entry in near[:4])
        raise RopewalkError(f"{text!r} names {len(near)} runs ({shown})", hint="write more of the name")
    raise RopewalkError(f"no run {text!r} in {runs_root(root)}", hint=LISTED)


def rebuild(root: Path | str | None = None) -> int:
    """Throw the index away and read every folder again; returns the number of entries."""
    folder = runs_root(root)
    with contextlib.suppress(OSError):
        (folder / INDEX).unlink()
    return len(list_runs(folder))


def _through_index(root: Path) -> list[RunEntry]:
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    try:
        with contextlib.closing(sqlite3.connect(root / INDEX, timeout=10)) as connection, connection:
            return _refresh(connection, folders)
    except sqlite3.OperationalError:
        # Locked by another process, or in a folder that cannot be written: the folders themselves are the truth.
        return [_entry(folder) for folder in folders]
    except sqlite3.DatabaseError:
        with contextlib.suppress(OSError):
            (root / INDEX).unlink()
        return [_entry(folder) for folder in folders]


def _refresh(connection: sqlite3.Connection, folders: list[Path]) -> list[RunEntry]:
    connection.execute(_TABLE)
    known = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT id, stamp, entry FROM runs_1")}
    entries: list[RunEntry] = []
    for folder in folders:
        stamp = _stamp(folder)
        cached = _cached(known.pop(folder.name, None), stamp, folder)
        entries.append(cached or _entry(folder))
        if cached is not None:
            continue
        row = (folder.name, stamp, json.dumps(entries[-1].to_json()))
        connection.execute("INSERT OR REPLACE INTO runs_1 VALUES (?, ?, ?)", row)
    # What is left over has no folder any more.
    connection.executemany("DELETE FROM runs_1 WHERE id = ?", [(name,) for name in known])
    return entries


def _cached(row: tuple[str, str] | None, stamp: str, folder: Path) -> RunEntry | None:
    """The entry of an unchanged folder; None where the row is missing, older, or not one of ours."""
    if row is None or row[0] != stamp:
        return None
    try:
        return RunEntry(**json.loads(row[1]) | {"path": str(folder)})
    except (ValueError, TypeError):
        return None


def _stamp(folder: Path) -> str:
    """What changes when a run ends or is tampered with: size, time and inode of the manifest."""
    try:
        found = (folder / MANIFEST).stat()
        return f"{found.st_size}/{found.st_mtime_ns}/{found.st_ino}"
    except OSError:
        # Without a manifest the run goes on, was killed, or never began: its first file tells the last from the others.
        return f"open/{(folder / REQUEST).exists()}/{any(folder.iterdir())}"


def _entry(folder: Path) -> RunEntry:
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        begun = (folder / REQUEST).is_file() and not (folder / MANIFEST).exists()
        status = "unfinished" if begun else "damaged"
        return RunEntry(folder.name, str(folder), "", status, "", None, "", problem=error.message)
    return RunEntry(
        id=folder.name,
        path=str(folder),
        kind=manifest["kind"],
        status=manifest["status"],
        created=manifest["created"],
        seconds=manifest.get("seconds"),
        subject=subject(manifest["request"]),
    )


def subject(request: Mapping[str, Any]) -> str:
    """What a request is about, for one column of a list: its model and its target or lengths."""
    model = next((request[key] for key in ("model", "source", "name", "recipe") if request.get(key)), "")
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("source") or model.get("model") or ""
    goal = request.get("target") or request.get("target_length") or request.get("lengths") or ""
    if isinstance(goal, list):
        goal = ", ".join(_spelled(item) for item in goal)
    return f"{model} → {_spelled(goal)}" if model and goal else str(model or _spelled(goal))


def _spelled(length: Any) -> str:
    return format_length(length) if isinstance(length, int) and not isinstance(length, bool) else str(length)
