"""The weight files of a model folder: found, judged safe, linked or copied elsewhere. Never opened as pickle."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ropewalk.errors import DamagedError, RopewalkError, UsageError, one_line
from ropewalk.files import sha256_of
from ropewalk.units import format_bytes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
MAX_HEADER_BYTES = 256 * 1024**2
MAX_INDEX_BYTES = 256 * 1024**2
MAX_COPIED_UNASKED = 1024**3

Mode = Literal["link", "symlink", "copy", "none"]
MODES: tuple[Mode, ...] = ("link", "symlink", "copy", "none")


class LinkRefusedError(RopewalkError):
    """The file system makes no hard link here."""


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files of a folder, the shard index that names them where there is one, and what they count."""

    folder: Path
    shards: tuple[Path, ...]
    index: Path | None
    num_parameters: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards together."""
        return sum(path.stat().st_size for path in self.shards)


def find_weights(folder: Path) -> WeightFiles:
    """The weight files of `folder`, each checked: inside the folder, there, and with a readable safetensors header.

    Raises RopewalkError where there are none, where they are pickle only, or where the index points elsewhere.
    """
    folder = Path(folder)
    index: Path | None = None
    if (folder / SINGLE).is_file():
        # Before the index, as transformers looks: a folder that holds both is loaded from the single file.
        names = [SINGLE]
    elif (folder / INDEX).is_file():
        index = folder / INDEX
        names = _shards_of(index)
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(names) != 1:
            raise _no_weights(folder, names)
    shards = tuple(folder / name for name in names)
    return WeightFiles(folder, shards, index, sum(_elements(check_shard(shard, folder)) for shard in shards))


def _elements(header: Mapping[str, Any]) -> int:
    # Python's own integers: a header may claim any shape.
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _shards_of(index: Path) -> list[str]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise RopewalkError(f"{index} is larger than any shard index", hint="fetch the model again")
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(document["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RopewalkError(
            f"{index} is not a shard index ({type(error).__name__}: {one_line(error, 120)})",
            hint="fetch the model again",
        ) from error
    if not isinstance(document.get("metadata"), dict):
        raise RopewalkError(
            f"{index} has no metadata entry, and transformers loads no index without one",
            hint='add "metadata": {} to it',
        )
    for name in names:
        path = PurePosixPath(str(name))
        inside = (
            not path.is_absolute()
            and ".." not in path.parts
            and "\\" not in str(name)
            and "\0" not in str(name)
        )
        if not inside or path.suffix != ".safetensors":
            raise RopewalkError(
                f"{index} names the shard {one_line(name, 80)!r}, which is not a safetensors file inside the folder",
                hint="such a folder is not safe to read: fetch the model again from a source you trust",
            )
    if not names:
        raise RopewalkError(f"{index} names no shard", hint="fetch the model again")
    return [str(name) for name in names]


def _no_weights(folder: Path, found: list[str]) -> RopewalkError:
    if found:
        return RopewalkError(
            f"{folder} holds {len(found)} safetensors files and no {INDEX}",
            hint="fetch the index too, or keep one file named model.safetensors",
        )
    for pattern in PICKLES:
        pickled = next(iter(sorted(folder.glob(pattern))), None)
        if pickled is not None:
            return RopewalkError(
                f"{folder} has its weights only as pickle ({pickled.name}), which can run code when read",
                hint="convert them: load once in software you trust and save_pretrained(..., safe_serialization=True)",
            )
    return RopewalkError(
        f"{folder} holds no weights (no {SINGLE}, no {INDEX})",
        hint="fetch the model whole, or pass --weights none",
    )


def check_shard(shard: Path, folder: Path) -> dict[str, Any]:
    """The safetensors header of a shard; a missing, foreign or truncated file is refused by name."""
    if not shard.is_file():
        raise DamagedError(f"the weight file {shard} is missing", hint="fetch the model again")
    # A Hub's cache is made of links out of the folder; any other way out of it is not to be followed.
    if not shard.is_symlink() and not shard.resolve().is_relative_to(folder.resolve()):
        raise RopewalkError(f"the weight file {shard} lies outside {folder}", hint="copy it into the folder")
    size = shard.stat().st_size
    try:
        with open(shard, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: dict[str, Any] = json.loads(stream.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        if not all(isinstance(size, int) for entry in tensors for size in entry["shape"]):
            raise ValueError("a shape that is not made of whole numbers")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        struct.error,
        AttributeError,
        RecursionError,
    ) as error:
        raise DamagedError(
            f"the weight file {shard} is not a safetensors file ({one_line(error, 120)})",
            hint="fetch it again",
        ) from error
    if end + 8 + length != size:
        raise DamagedError(
            f"the weight file {shard} has {size} bytes where its header promises {end + 8 + length}",
            hint="it was cut short: fetch it again",
        )
    return header


def bring(source: Path, target: Path, mode: Mode) -> None:
    """Make `source`'s content appear at `target`: a hard link, a symbolic link, or a copy.

    A hard link that the file system refuses is an error that names the alternatives.
    """
    if mode not in MODES or mode == "none":
        raise UsageError(f"weights={mode!r} is not a way to bring files", hint=f"use {', '.join(MODES)}")
    # The file behind a Hub's link: the cache may drop its links while the file lives on under ours.
    real = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "symlink":
        target.symlink_to(real)
    elif mode == "copy":
        shutil.copyfile(real, target)
    else:
        try:
            os.link(real, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
                raise
            # Only what speaks of links: a full disk or a missing folder is raised as it is.
            why = "another file system" if error.errno == errno.EXDEV else one_line(error.strerror or error)
            raise LinkRefusedError(
                f"cannot hard-link {real.name} ({why})",
                hint="pass --weights copy (needs the space) or --weights symlink (needs the original to stay)",
            ) from error


def bring_all(found: WeightFiles, target: Path, mode: Mode) -> tuple[list[str], Mode, tuple[str, ...]]:
    """Bring every shard and the index into `target`: names, the mode that was used, remarks for the user.

    Where hard links are refused, weights of up to 1 GiB are copied instead, and a remark says so.
    """
    remarks: tuple[str, ...] = ()
    names = [shard.relative_to(found.folder) for shard in found.shards]
    for shard, name in zip(found.shards, names, strict=True):
        try:
            bring(shard, target / name, mode)
        except LinkRefusedError as refusal:
            if found.total_bytes > MAX_COPIED_UNASKED:
                raise
            # For the rest as well: the refusal is the file system's, not this file's.
            mode, remarks = (
                "copy",
                (f"{refusal.message}: copied {format_bytes(found.total_bytes)} of weights instead",),
            )
            bring(shard, target / name, mode)
    if found.index is not None:
        shutil.copyfile(found.index, target / found.index.name)
    listed = [name.as_posix() for name in names]
    return listed + ([] if found.index is None else [found.index.name]), mode, remarks


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes: the same file on disk, or equal size and SHA-256."""
    if one.samefile(other):
        return True
    # Sizes first: hashing gigabytes takes minutes.
    return one.stat().st_size == other.stat().st_size and sha256_of(one) == sha256_of(other)
