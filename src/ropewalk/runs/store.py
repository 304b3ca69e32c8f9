"""A run is a folder: what was asked, what came out, and a manifest that is written last.

    request.json     kind, request, command line, versions, start: written first, so that a killed run says what it was
    result.json ...  whatever the command writes
    manifest.json    the same, with status, hardware, and size and SHA-256 of every file: written last

A folder without a manifest is a run that never ended.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, GateMissedError, RopewalkError, UsageError, one_line
from ropewalk.files import as_path, write_bytes, write_json, write_text
from ropewalk.manifests import check_entries, entries_of, inside
from ropewalk.runs import environment
from ropewalk.runs.documents import finite, read_document
from ropewalk.runs.lock import run_lock

FORMAT = "ropewalk-run/1"
KINDS = ("eval", "compare", "train", "verify", "tune")
MANIFEST = "manifest.json"
REQUEST = "request.json"
RESULT = "result.json"
AGAIN = "run its command again, or restore the file"
ANOTHER = "a run never changes: choose another folder"
LISTED = "`ropewalk runs ls` lists the runs"
# What request.json holds of a run from its first moment on; the manifest adds how it ended.
OPENING = {"kind": str, "request": dict, "created": str}
_REQUIRED = OPENING | {"status": str, "files": dict}
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "command": (str,),
    "seed": (int,),
    "seconds": (int, float),
    "versions": (dict,),
    "hardware": (dict,),
    "error": (dict,),
}


def runs_root(root: Path | str | None = None) -> Path:
    """Where runs live: the given folder, $ROPEWALK_RUNS, or ./runs."""
    if root is not None:
        return Path(root)
    return Path(os.environ.get("ROPEWALK_RUNS") or "runs")


@dataclass
class Run:
    """A run being written. `path` is its folder; its name is the run's id."""

    path: Path
    kind: str
    created: str
    resumed: bool = False
    opening: dict[str, Any] = field(default_factory=dict)
    _prior_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    def ask(self, request: Mapping[str, Any], *, seed: int) -> None:
        """What is asked from here on; a resumed run takes up a changed request only once it fits what is there."""
        self.opening |= {"request": finite(dict(request)), "seed": seed}
        self.write_json(REQUEST, self.opening)

    def file(self, name: str) -> Path:
        """The path of a file of this run; names that leave the folder are refused."""
        return inside(self.path, name, what=f"run {self.id}")

    def write_json(self, name: str, document: Any) -> Path:
        """One JSON document, written whole. NaN and infinities become null, as on the command line."""
        path = self.file(name)
        write_json(path, finite(document))
        return path

    def write_text(self, name: str, content: str) -> Path:
        """A text file, written whole."""
        path = self.file(name)
        write_text(path, content)
        return path

    def write_bytes(self, name: str, content: bytes) -> Path:
        """A file, written whole."""
        path = self.file(name)
        write_bytes(path, content)
        return path


@dataclass(frozen=True)
class StoredRun:
    """A run that ended, opened and checked."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def kind(self) -> str:
        """eval, compare, train, verify or tune."""
        return str(self.manifest["kind"])

    @property
    def status(self) -> str:
        """complete, failed or interrupted."""
        return str(self.manifest["status"])

    @property
    def request(self) -> Mapping[str, Any]:
        """What was asked, as the command resolved it."""
        request: Mapping[str, Any] = self.manifest["request"]
        return request

    @property
    def files(self) -> Mapping[str, Any]:
        """Name to {bytes, sha256} of every file that the manifest covers."""
        files: Mapping[str, Any] = self.manifest["files"]
        return files

    def has(self, name: str) -> bool:
        """Whether the run wrote that file."""
        return name in self.files

    def read_json(self, name: str = RESULT) -> Any:
        """A JSON file of the run; a missing or damaged one is named."""
        if name not in self.files:
            raise DamagedError(f"run {self.id} has no {name} (status {self.status})", hint=AGAIN)
        return read_document(inside(self.path, name, what=f"run {self.id}"))


@contextmanager
def create_run(
    kind: str,
    request: Mapping[str, Any],
    *,
    path: Path | str | None = None,
    root: Path | str | None = None,
    seed: int = 0,
    resume: bool = False,
    command: str | None = None,
) -> Iterator[Run]:
    """A new run folder; leaving the block writes its manifest, whatever happened inside.

    `path` names the folder, otherwise one is made under `root` (default $ROPEWALK_RUNS, or ./runs). An
    existing folder is refused, except with `resume` when it is an unfinished, interrupted or failed run of
    the same kind; one that was refused before it had anything to keep makes room for the next. One process at a
    time writes in a folder, others are refused. A GateMissedError is a result, not a failure: the run is complete.
    """
    if kind not in KINDS:
        raise UsageError(f"run kind {kind!r} is unknown", hint=f"one of {', '.join(KINDS)}")
    with ExitStack() as stack:
        if path is not None:
            path = as_path(path, "output")
            stack.enter_context(run_lock(path))
            _clear(path)
        run = _enter(kind, path, root, resume)
        run.opening = {
            "format": FORMAT,
            "kind": kind,
            "command": command or environment.command_line(),
            "created": run.created,
            "versions": environment.versions(),
        }
        run.ask(request, seed=seed)
        yield from _held(run)


def _held(run: Run) -> Iterator[Run]:
    """The run while its block lasts, then its manifest."""
    status, failure = "complete", None
    try:
        yield run
    except (KeyboardInterrupt, GeneratorExit):
        status = "interrupted"
        raise
    # Told apart from a failure: everything was measured, and the answer is no.
    except GateMissedError as missed:
        failure = missed.to_json()
        raise
    except BaseException as error:
        status = "failed"
        failure = _failure(error)
        raise
    finally:
        _close(run, status, failure)


def open_run(path: Path | str, *, verify: bool = True) -> StoredRun:
    """A finished run, its manifest and (with `verify`) every file's size and SHA-256 checked.

    Raises DamagedError naming the file that is missing, changed, half-written or of a newer version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RopewalkError(f"no run folder {folder}", hint=LISTED)
    if not any(folder.iterdir()):
        raise DamagedError(f"run {folder} is an empty folder", hint=AGAIN)
    manifest = read_manifest(folder)
    if verify:
        check_entries(folder, manifest["files"], what=f"run {folder}", hint=AGAIN)
    return StoredRun(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a run folder; the files that it lists are not looked at."""
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / REQUEST).is_file():
            raise DamagedError(f"run {folder} never ended: no {MANIFEST}", hint="resume it, or run it again")
        raise DamagedError(f"{folder} is no run folder: it has no {MANIFEST}", hint=LISTED)
    document = read_document(file)
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        newer = isinstance(found, str) and found.startswith("ropewalk-run/")
        hint = "another version of ropewalk wrote it: update this one" if newer else AGAIN
        raise DamagedError(f"{file} has format {one_line(found, 60)!r}, not {FORMAT!r}", hint=hint)
    for key, wanted in _REQUIRED.items():
        if not isinstance(document.get(key), wanted):
            raise DamagedError(f"{file} lacks {key!r}", hint=AGAIN)
    for key, allowed in _OPTIONAL.items():
        if not isinstance(document.get(key), (*allowed, type(None))):
            raise DamagedError(f"{file} has a {key!r} of the wrong type", hint=AGAIN)
    checked: dict[str, Any] = document
    return checked


def _enter(kind: str, path: Path | str | None, root: Path | str | None, resume: bool) -> Run:
    # In UTC: ids are sorted as text, and a clock that is set back in autumn would put runs out of order.
    created = datetime.now(UTC)
    stamp = created.isoformat(timespec="seconds").replace("+00:00", "Z")
    if path is None:
        return Run(_fresh_folder(runs_root(root), kind, created), kind, stamp)
    folder = Path(path)
    if resume and folder.is_dir() and any(folder.iterdir()):
        return _resumed(folder, kind, stamp)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RopewalkError(f"{folder} already exists", hint=ANOTHER)
    _make(folder)
    # Of several processes that begin the same run at once, one gets it: making the request file is the claim.
    try:
        os.close(os.open(folder / REQUEST, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError as error:
        raise RopewalkError(f"{folder} already exists", hint=ANOTHER) from error
    except OSError as error:
        raise _cannot_make(folder, error) from error
    return Run(folder, kind, stamp)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is missing or empty, or holds nothing that a run made: its process was killed before the
    request was written, or what was asked was refused before there was anything to keep."""
    if not folder.is_dir():
        return not folder.exists()
    files = list(folder.iterdir())
    if {path.name for path in files} == {REQUEST, MANIFEST}:
        try:
            return bool(read_manifest(folder)["status"] == "failed")
        except DamagedError:
            return False
    return all(_stillborn(path) for path in files)


def _stillborn(path: Path) -> bool:
    unwritten = path.name.startswith(f".{REQUEST}.") and path.name.endswith(".tmp")
    return unwritten or (path.name == REQUEST and not path.stat().st_size)


def _clear(folder: Path) -> None:
    """Make room where nothing is a run yet.

    Called under the run's lock, so that no living process is about to write it.
    """
    if folder.is_dir() and holds_nothing(folder):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)


def _fresh_folder(root: Path, kind: str, created: datetime) -> Path:
    _make(root)
    while True:
        folder = root / f"{created:%Y%m%d-%H%M%S}-{kind}-{secrets.token_hex(2)}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_make(folder, error) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(folder, error) from error


def _cannot_make(folder: Path, error: OSError) -> RopewalkError:
    return RopewalkError(
        f"cannot make the run folder {folder} ({one_line(error.strerror or error)})",
        hint="name another with -o, or set ROPEWALK_RUNS",
    )


def _resumed(folder: Path, kind: str, stamp: str) -> Run:
    seconds = 0.0
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if manifest["status"] == "complete":
            raise RopewalkError(f"run {folder} is complete", hint=ANOTHER)
        found, stamp, seconds = manifest["kind"], manifest["created"], float(manifest.get("seconds") or 0)
    elif (folder / REQUEST).exists():
        opening = read_document(folder / REQUEST)
        if not isinstance(opening, dict):
            raise DamagedError(f"{folder / REQUEST} is not what a run writes", hint=ANOTHER)
        found, stamp = opening.get("kind"), opening.get("created") or stamp
    else:
        raise RopewalkError(f"{folder} exists and is no run", hint=ANOTHER)
    if found != kind:
        raise RopewalkError(f"{folder} holds a run of kind {found!r}, not {kind!r}", hint=ANOTHER)
    # The old manifest goes first: until the new one is written, this is a run that has not ended.
    (folder / MANIFEST).unlink(missing_ok=True)
    return Run(folder, kind, stamp, resumed=True, _prior_seconds=seconds)


def _close(run: Run, status: str, failure: dict[str, Any] | None) -> None:
    manifest = run.opening | {
        "status": status,
        "seconds": round(run._prior_seconds + time.monotonic() - run._started, 3),
        "ended": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "hardware": environment.hardware(),
        "files": entries_of(run.path, MANIFEST),
    }
    if failure is not None:
        manifest["error"] = failure
    write_json(run.path / MANIFEST, finite(manifest))


def _failure(error: BaseException) -> dict[str, Any]:
    import traceback

    if isinstance(error, RopewalkError):
        return error.to_json()
    text = "".join(traceback.format_exception(error))
    # The end of a traceback is where it happened.
    return {"type": type(error).__name__, "message": str(error), "hint": None, "traceback": text[-8000:]}
