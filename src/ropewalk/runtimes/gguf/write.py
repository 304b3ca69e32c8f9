"""Writing a GGUF file whole: to a temporary name, one tensor at a time, renamed only when every byte is on disk."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.files import whole_file
from ropewalk.models.gguf.file import (
    ALIGNMENT,
    ARRAY,
    BOOL,
    CODES,
    F32,
    FLOAT32,
    INT32,
    MAGIC,
    STRING,
    UINT32,
    GgufFile,
    Key,
    padded,
)
from ropewalk.units import format_bytes

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Piece:
    """A tensor to write: its entry, its bytes, and what puts them into the stream."""

    name: str
    dims: tuple[int, ...]
    kind: int
    size: int
    copy: Callable[[BinaryIO], None]


def key_of(name: str, value: Any) -> Key:
    """A metadata entry of a Python value: integers as UINT32, floats as FLOAT32, lists of one type."""
    kind = _kind_of(value)
    if kind != ARRAY:
        return Key(name, kind, struct.pack("<I", kind) + _packed(value, kind))
    inner = _kind_of(value[0]) if value else STRING
    # Lists of numbers are signed in llama.cpp's own files, single counts are not.
    inner = INT32 if inner == UINT32 else inner
    body = b"".join(_packed(item, inner) for item in value)
    return Key(name, ARRAY, struct.pack("<IIQ", ARRAY, inner, len(value)) + body)


def _kind_of(value: Any) -> int:
    # First, since a bool is an int in Python.
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return UINT32
    if isinstance(value, float):
        return FLOAT32
    return STRING if isinstance(value, str) else ARRAY


def _packed(value: Any, kind: int) -> bytes:
    if kind == STRING:
        text: bytes = value.encode("utf-8")
        return struct.pack("<Q", len(text)) + text
    try:
        return struct.pack("<" + CODES[kind], value)
    except struct.error as error:
        raise RopewalkError(
            f"{value} is no number that a GGUF file's metadata can hold ({error})",
            hint="correct it in the model's config.json",
        ) from error


def floats(name: str, values: Sequence[float]) -> Piece:
    """A tensor of float32 numbers, one dimension."""
    data = np.asarray(values, dtype="<f4").tobytes()
    return Piece(name, (len(values),), F32, len(data), lambda stream: _write(stream, data))


def copied(source: GgufFile) -> list[Piece]:
    """Every tensor of a file, copied in chunks when its turn comes."""

    # A function for each tensor's place: one made in the loop below would see the last tensor's alone.
    def piece(offset: int, size: int) -> Callable[[BinaryIO], None]:
        def copy(stream: BinaryIO) -> None:
            with open(source.path, "rb") as origin:
                origin.seek(source.data_start + offset)
                left = size
                while left:
                    chunk = origin.read(min(left, _CHUNK))
                    if not chunk:
                        raise RopewalkError(
                            f"{source.path} became shorter while it was read", hint="try again"
                        )
                    stream.write(chunk)
                    left -= len(chunk)

        return copy

    return [
        Piece(tensor.name, tensor.dims, tensor.kind, tensor.size, piece(tensor.offset, tensor.size))
        for tensor in source.tensors
    ]


def write_gguf(
    path: Path, keys: Iterable[Key], pieces: Sequence[Piece], *, alignment: int = ALIGNMENT, version: int = 3
) -> None:
    """Write a file that appears whole or not at all; refused beforehand where the disk has no room for it."""
    header = _header(list(keys), pieces, alignment, version)
    total = len(header) + sum(padded(piece.size, alignment) for piece in pieces)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if total > free:
            raise RopewalkError(
                f"{path.name} needs {format_bytes(total)} and {path.parent} has {format_bytes(free)} free",
                hint="write elsewhere, or start from a smaller quantisation",
            )
        with whole_file(path) as stream:
            stream.write(header)
            for piece in pieces:
                begin = stream.tell()
                piece.copy(stream)
                written = stream.tell() - begin
                # Offsets stand in the header already: a tensor that is a byte short displaces all that follow.
                assert written == piece.size, f"{piece.name}: {written} bytes of {piece.size}"
                stream.write(b"\0" * (padded(piece.size, alignment) - piece.size))
    except OSError as error:
        raise RopewalkError(
            f"cannot write {path} ({one_line(error.strerror or error)})",
            hint="check free space and permissions, or write elsewhere",
        ) from error


def _header(keys: list[Key], pieces: Sequence[Piece], alignment: int, version: int) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", version, len(pieces), len(keys))]
    for key in keys:
        parts += [_packed(key.name, STRING), key.raw]
    offset = 0
    for piece in pieces:
        parts += [_packed(piece.name, STRING), struct.pack("<I", len(piece.dims))]
        parts += [struct.pack(f"<{len(piece.dims)}Q", *piece.dims), struct.pack("<IQ", piece.kind, offset)]
        # llama.cpp refuses tensors that do not follow each other in the header's order.
        offset += padded(piece.size, alignment)
    header = b"".join(parts)
    return header + b"\0" * (padded(len(header), alignment) - len(header))


def _write(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
