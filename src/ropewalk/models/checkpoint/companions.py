"""What travels with a checkpoint besides its weights: tokenizer, chat template, generation settings, licence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.files import write_json
from ropewalk.models.checkpoint.manifest import MANIFEST
from ropewalk.models.config import read_json
from ropewalk.models.source import NO_LIMIT, Place

CONFIG, CARD = "config.json", "README.md"
TEMPLATES = "additional_chat_templates"
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".pkl",
    ".npz",
)
_OWN = (CONFIG, CARD, MANIFEST, "model.safetensors.index.json", f"{CONFIG}.original")
MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Lengths:
    """The window to declare, and the one that the source declares."""

    target: int
    old: int


def companions(place: Place, *, with_code: bool) -> Iterator[Path]:
    """The files beside the weights that belong to the model, relative to its folder. Code only when it is trusted.

    A configuration that was named by itself, with no weights beside it, has none. Raises RopewalkError for a link
    that leads out of the folder: its content is none of the model's.
    """
    folder = place.folder
    if place.is_lone_file and place.config.name != CONFIG:
        return
    # A configuration under a name of its own is the one that is written anew.
    own = (*_OWN, place.config.name)
    inside = [path for path in sorted(folder.iterdir()) if path.name not in own and path.name[0] != "."]
    inside += sorted((folder / TEMPLATES).glob("*.jinja")) if (folder / TEMPLATES).is_dir() else []
    for path in inside:
        if (
            path.suffix in _WEIGHTS
            or path.name.endswith(".index.json")
            or (path.suffix == ".py" and not with_code)
        ):
            continue
        if path.is_dir():
            continue
        check_inside(path, folder)
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise RopewalkError(
                f"{path} is not a file of a reasonable size for a tokenizer or a setting",
                hint="move it out of the model folder",
            )
        yield path.relative_to(folder)


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a link out of the folder; in the Hub's cache, links into the same model's store are the normal case."""
    real = path.resolve()
    store = folder.resolve().parent.parent
    in_cache = folder.resolve().parent.name == "snapshots" and store.name.startswith("models--")
    if real.is_relative_to(folder.resolve()) or (in_cache and real.is_relative_to(store)):
        return
    raise RopewalkError(
        f"{path} is a link out of the model's folder",
        hint="copy the file into the folder, if it belongs to the model",
    )


def copy_companions(place: Place, output: Path, lengths: Lengths, *, with_code: bool) -> list[str]:
    """Copy the companions; lengths in tokenizer and generation settings follow. Returns the names."""
    names, folder = [], place.folder
    for relative in companions(place, with_code=with_code):
        target = output / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        changed = None
        if relative.name in ("tokenizer_config.json", "generation_config.json"):
            changed = _with_length(folder / relative, lengths)
        if changed is None:
            shutil.copyfile(folder / relative, target)
        else:
            write_json(target, changed)
        names.append(relative.as_posix())
    return names


def _with_length(path: Path, lengths: Lengths) -> dict[str, Any] | None:
    """The settings with their length raised, or None where nothing has to change."""
    settings = read_json(path)
    if path.name == "tokenizer_config.json":
        value = settings.get("model_max_length")
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or value >= NO_LIMIT
            or value == lengths.target
        ):
            return None
        return settings | {"model_max_length": lengths.target}
    # A generation limit that was the window follows it; any other is the model maker's choice.
    if settings.get("max_length") == lengths.old != lengths.target:
        return settings | {"max_length": lengths.target}
    return None
