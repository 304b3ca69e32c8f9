"""Whose numbers a file of `tune` holds: the model that it was fitted on, or another one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ropewalk.errors import RopewalkError
from ropewalk.files import read_json
from ropewalk.models.checkpoint.manifest import read_manifest
from ropewalk.models.source import HEMP, resolve
from ropewalk.models.structure.values import shown


def fitted_elsewhere(files: Iterable[object], source: str | Path) -> list[str]:
    """In words, which of these schedules, ladders, maps and temperatures were fitted on another model than `source`.

    The same model are its folder under any path, and what was extended from it; a model that is no longer where it was
    counts as another. What is no JSON file, or does not say where it was fitted, leaves nothing to compare.
    """
    found = []
    for file in dict.fromkeys(str(each) for each in files if isinstance(each, str | Path)):
        named = _fitted_on(Path(file)) if file.strip().lower().endswith(".json") else None
        if named is not None and _names(source).isdisjoint({named, _place(named)}):
            found.append(
                f"{file} was fitted on {shown(named, 200)}, and this is {shown(str(source), 200)}: "
                "its numbers are that model's"
            )
    return found


def _fitted_on(file: Path) -> str | None:
    try:
        document = read_json(file, hint="")
    except RopewalkError:
        # Whoever uses the file reads it for its message.
        return None
    for place in (document, document.get("schedule") if isinstance(document, Mapping) else None):
        fitted = place.get("fitted") if isinstance(place, Mapping) else None
        named = fitted.get("model") if isinstance(fitted, Mapping) else None
        if isinstance(named, str) and named:
            return named
    return None


def _names(source: str | Path) -> set[str]:
    """What a model is called: its folder, or as a Hub id; and the same of the model that it was extended from."""
    found = {_place(str(source))}
    folder = Path(_place(str(source)))
    try:
        manifest = read_manifest(folder if folder.is_dir() else folder.parent)
    except RopewalkError:
        # A damaged manifest is for `verify` to name.
        manifest = None
    if manifest is not None:
        found |= {_place(manifest["base"]["folder"]), _place(manifest["base"]["source"])}
    return found


def _place(name: str) -> str:
    """The real folder of a model on this machine, the name itself of any other: nothing is downloaded for this."""
    path = resolve(name) if name == HEMP and not os.path.exists(name) else Path(name).expanduser()
    try:
        if not path.exists():
            return name
        return str((path if path.is_dir() else path.parent).resolve())
    except OSError:
        return name
