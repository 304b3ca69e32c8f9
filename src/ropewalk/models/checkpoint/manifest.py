"""The manifest of an extended checkpoint: what was done, from what, and the size and hash of every file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk._version import __version__
from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.files import sha256_of, write_json
from ropewalk.manifests import entries_of
from ropewalk.models.config import read_config, read_json
from ropewalk.models.source import Place

MANIFEST = "ropewalk.json"
FORMAT = "ropewalk-checkpoint/1"
_AGAIN = "extend the model again with this version"


def write_manifest(working: Path, place: Place, done: Mapping[str, Any]) -> None:
    """Write it, as the last file. `done` holds the source as it was named, the command, the schedule and the rest.

    Weights keep their size only: hashing a large model would cost more than the whole extension, and `verify`
    compares them with the base's.
    """
    done = dict(done)
    base = {
        "source": done.pop("source"),
        "folder": str(place.folder.resolve()),
        "config_file": place.config.name,
        "config_sha256": sha256_of(place.config),
        # Whole, so that verify can rebuild the base where its folder is gone or has changed.
        "config": read_config(place.config),
    }
    files = entries_of(working, MANIFEST, hashed=lambda path: path.suffix != ".safetensors")
    document = {"format": FORMAT, "ropewalk": __version__, "command": done.pop("command"), "base": base}
    write_json(working / MANIFEST, document | done | {"files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an extended checkpoint, or None in any other folder; DamagedError where it cannot be used."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        document = read_json(path)
    except RopewalkError as error:
        raise DamagedError(error.message, hint=_AGAIN) from error
    if document.get("format") != FORMAT:
        raise DamagedError(
            f"{path} has format {one_line(repr(document.get('format')), 60)}, expected {FORMAT!r}",
            hint=_AGAIN,
        )
    base = document.get("base")
    wanted = {"source": str, "folder": str, "config_sha256": str, "config": dict}
    if not isinstance(base, dict) or any(not isinstance(base.get(key), kind) for key, kind in wanted.items()):
        raise DamagedError(f"{path} does not say what the checkpoint was made from", hint=_AGAIN)
    return document
