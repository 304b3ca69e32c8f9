"""Checkpoints on disk: whole or absent, every file's size and SHA-256 in a manifest that is written last.

Nothing in here knows what a model or an optimiser is; `weights.py` does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.files import fsync_folder, whole_folder, write_json
from ropewalk.manifests import check_entries, entries_of
from ropewalk.units import format_bytes

FORMAT = "ropewalk-training-checkpoint/1"
# What these manifests called themselves when extended checkpoints did so too.
_FORMER = "ropewalk-checkpoint/1"
_WAY_OUT = "remove this folder, or restore it from a copy"
MANIFEST = "manifest.json"
_NAME = re.compile(r"^step-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been checked."""

    path: Path
    step: int
    manifest: dict[str, Any]


def write_checkpoint(root: Path, step: int, fill: Callable[[Path], None], facts: dict[str, Any]) -> Path:
    """Write `root/step-N`: `fill` writes the files into a temporary folder, the manifest follows, then the rename.

    Killed anywhere, the folder is either not there under its name or complete.
    """
    with checkpoint_folder(root, step, facts) as working:
        fill(working)
    return root / f"step-{step:06d}"


@contextlib.contextmanager
def checkpoint_folder(root: Path, step: int, facts: dict[str, Any]) -> Iterator[Path]:
    """A folder that becomes `root/step-N`, manifest and all, when the block ends well, and vanishes otherwise."""
    # A run that went back behind a damaged checkpoint comes to the same step again.
    with whole_folder(root / f"step-{step:06d}", force=True) as working:
        yield working
        files = entries_of(working, MANIFEST)
        write_json(working / MANIFEST, {"format": FORMAT, "step": step, **facts, "files": files})


@contextlib.contextmanager
def naming_a_full_disk(target: Path) -> Iterator[None]:
    """Inside, an error for want of room says so, and that what was there before is whole."""
    try:
        yield
    except Exception as error:
        text = str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors and our own files wrap the system's error into their words.
        if not full and "No space left" not in text and "quota exceeded" not in text.lower():
            raise
        free = shutil.disk_usage(target.parent).free
        raise RopewalkError(
            f"no room for checkpoint {target.name}: {format_bytes(free)} are free in {target.parent}",
            hint="free the disk, then --resume: the checkpoints before this one are whole",
        ) from error


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders under `root` by step, oldest first, unchecked."""
    if not root.is_dir():
        return []
    found = [(int(match.group(1)), path) for path in root.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def check_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint: the manifest's form, and every file's presence, size and SHA-256."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({one_line(error.strerror or error)})") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in (FORMAT, _FORMER):
        raise _damaged(path, f"{MANIFEST} is not of the format {FORMAT}")
    files, step = manifest.get("files"), manifest.get("step")
    if not isinstance(files, dict) or not isinstance(step, int) or path.name != f"step-{step:06d}":
        raise _damaged(path, f"{MANIFEST} does not belong to this folder")
    try:
        check_entries(path, manifest["files"], what=f"checkpoint {path.name}", hint=_WAY_OUT)
    except DamagedError as error:
        # The checkpoint comes first in every message, and its files by their names inside.
        told = error.message.replace(f"{path}/", "").removeprefix(f"checkpoint {path.name} ")
        raise _damaged(path, told) from error
    return Checkpoint(path, manifest["step"], manifest)


def newest_checkpoint(root: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; a damaged newer one is named through `warn`. None where there is none.

    Where there are checkpoints and none is whole, that is a DamagedError: nobody wants to start over unasked.
    """
    faults = []
    for path in reversed(list_checkpoints(root)):
        try:
            found = check_checkpoint(path)
        except DamagedError as error:
            faults.append(error)
            continue
        for fault in faults:
            warn(f"DAMAGED CHECKPOINT: {fault.message}; going back to {found.path.name}")
        return found
    if faults:
        raise DamagedError(
            f"no whole checkpoint in {root}: {faults[0].message}",
            hint="restore one from a copy, or start a new run with another output",
        )
    return None


def prune_checkpoints(root: Path, keep_last: int | None, keep: Path) -> None:
    """Remove all but the newest `keep_last`; `keep`, the one just written, always stays.

    A folder is renamed out of its name first, so that a kill in between leaves no half checkpoint under a good name.
    """
    if keep_last is None:
        return
    for path in list_checkpoints(root)[:-keep_last]:
        if path == keep:
            continue
        doomed = root / f".{path.name}.old.tmp"
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        fsync_folder(root)
        shutil.rmtree(doomed, ignore_errors=True)


def clean_leftovers(root: Path) -> None:
    """Remove the temporary folders that a killed process left."""
    if not root.is_dir():
        return
    for path in root.glob(".step-*.tmp"):
        # Killed between the two renames of a replacement, the old checkpoint sits whole inside the `.old.` folder.
        for inner in path.glob("step-*"):
            if ".old." in path.name and inner.is_dir() and not (root / inner.name).exists():
                inner.rename(root / inner.name)
        shutil.rmtree(path, ignore_errors=True)


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(f"checkpoint {path.name}: {what}", hint=_WAY_OUT)
