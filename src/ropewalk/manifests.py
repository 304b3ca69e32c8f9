"""Manifests: the size and SHA-256 of every file in a folder of ours, written last and checked when the folder is read.

A run, a training checkpoint and an extended checkpoint all keep their files' entries in this form, under the key
`files`: name to {"bytes": ..., "sha256": ...}. What else stands in a manifest is its owner's matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, one_line
from ropewalk.files import sha256_of


def entries_of(
    folder: Path, manifest: str, *, hashed: Callable[[Path], bool] = lambda path: True
) -> dict[str, Any]:
    """The entry of every file under `folder` but the manifest itself.

    A subfolder with a manifest of that name is covered by that manifest's own entry. Links and half-written files
    are nobody's. `hashed` may spare files whose content is held elsewhere; they keep their size.
    """
    files: dict[str, Any] = {}
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        # In place: os.walk goes down by this very list, below as well.
        folders.sort()
        nested = here != folder and manifest in names
        for name in [manifest] if nested else sorted(names):
            path = here / name
            temporary = name.startswith(".") and name.endswith(".tmp")
            if path == folder / manifest or path.is_symlink() or temporary:
                continue
            entry: dict[str, Any] = {"bytes": path.stat().st_size}
            if hashed(path):
                entry["sha256"] = sha256_of(path)
            files[path.relative_to(folder).as_posix()] = entry
        if nested:
            folders.clear()
    return files


def check_entries(folder: Path, files: Mapping[str, Any], *, what: str, hint: str) -> None:
    """Hold every file against its entry; DamagedError names the first that is missing or changed."""
    for name, expected in files.items():
        check_entry(folder, name, expected, what=what, hint=hint)


def changed_entries(folder: Path, files: object) -> list[str]:
    """Names of the files that are gone, or not what the manifest says of them, by size alone where it has no hash."""
    found = []
    for name, expected in (files if isinstance(files, Mapping) else {}).items():
        path = inside(folder, name, what=str(folder))
        told = expected if isinstance(expected, Mapping) else {}
        same = path.is_file() and path.stat().st_size == told.get("bytes")
        if not same or ("sha256" in told and sha256_of(path) != told["sha256"]):
            found.append(name)
    return found


def check_entry(folder: Path, name: str, expected: Any, *, what: str, hint: str) -> None:
    """Hold one file against its entry. `what` names the folder in the error, `hint` the way out."""
    path = inside(folder, name, what=what)
    if not isinstance(expected, Mapping) or not {"bytes", "sha256"} <= expected.keys():
        raise DamagedError(f"the manifest of {what} has no size and hash for {name!r}", hint=hint)
    if not path.is_file():
        raise DamagedError(f"{what} has lost {name}", hint=hint)
    # The name lies inside; a link of that name may still lead to any file of this machine.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"{path} is a link that leaves the folder of {what}", hint=hint)
    size = path.stat().st_size
    # Before the hash: a file that was cut short is told at once, gigabytes take minutes to hash.
    if size != expected["bytes"]:
        raise DamagedError(f"{path} has {size} bytes, the manifest says {expected['bytes']}", hint=hint)
    if sha256_of(path) != expected["sha256"]:
        raise DamagedError(f"{path} is not what was written (SHA-256 differs)", hint=hint)


def inside(folder: Path, name: str, *, what: str) -> Path:
    """The path of a file by its name in a manifest; a name that leaves the folder is refused."""
    if Path(name).is_absolute() or ".." in Path(name).parts or not name:
        raise DamagedError(
            f"file name {one_line(name, 80)!r} leaves the folder of {what}", hint="name a file inside it"
        )
    return folder / name
