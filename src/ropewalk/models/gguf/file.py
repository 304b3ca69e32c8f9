"""The structure of a GGUF file, read with suspicion: every length is checked against the file before it is believed.

Layout (little endian): magic, version, number of tensors, number of keys; the keys (name, type, value); the tensors
(name, dimensions, type, offset); padding; the data. Offsets count from the start of the data and are contiguous in
the order of the tensors, each padded to the alignment: llama.cpp refuses anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ropewalk.errors import DamagedError, RopewalkError, one_line

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32
# Value types by their numbers in the file: those of fixed width with their struct codes.
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
F32 = 0
_MAX_NAME, _MAX_KEYS, _MAX_TENSORS, _MAX_DIMS = 1 << 16, 1 << 16, 1 << 20, 8
_AGAIN = "fetch or convert the file again"


@dataclass(frozen=True)
class Key:
    """One metadata entry: `raw` is its bytes in the file after the name, type included."""

    name: str
    kind: int
    raw: bytes

    @property
    def value(self) -> Any:
        """The value of a plain number or string; None for arrays."""
        if self.kind == STRING:
            # Four bytes of type and eight of length stand before the text.
            return self.raw[12:].decode("utf-8", "replace")
        if self.kind in CODES:
            return struct.unpack("<" + CODES[self.kind], self.raw[4:])[0]
        return None


@dataclass(frozen=True)
class Tensor:
    """One tensor's entry; `size` are its bytes in the data without padding where the type is known."""

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """A whole file: keys and tensors in their order, and where the data begins."""

    path: Path
    version: int
    keys: tuple[Key, ...]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_start: int

    def get(self, name: str) -> Any:
        """The value of a plain key, or None."""
        return next((key.value for key in self.keys if key.name == name), None)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.get("general.architecture") or "")

    def own(self, name: str) -> Any:
        """The value of a key under the architecture's name."""
        return self.get(f"{self.architecture}.{name}")


def read_gguf(path: Path) -> GgufFile:
    """Read and check a file's structure; DamagedError names what is cut, doubled or absurd."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            return _Reader(path, stream, size).read()
    except OSError as error:
        raise RopewalkError(
            f"cannot read {path} ({one_line(error.strerror or error)})", hint="check the path"
        ) from error


class _Reader:
    """Reads one file from front to back."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path, self.stream, self.size = path, stream, size

    def damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self.path} is not a usable GGUF file: {what}", hint=_AGAIN)

    def take(self, count: int) -> bytes:
        if count < 0 or count > self.size - self.stream.tell():
            raise self.damaged(f"it ends at {self.size} bytes, inside its header")
        return self.stream.read(count)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, most: int, what: str) -> int:
        value = int(self.number("Q"))
        if value > most:
            raise self.damaged(f"{value} {what}")
        return value

    def name(self) -> str:
        raw = self.take(self.count(_MAX_NAME, "bytes in a name"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a name that is not text") from None

    def read(self) -> GgufFile:
        if self.take(4) != MAGIC:
            raise self.damaged("it does not begin with GGUF")
        version = int(self.number("I"))
        if version not in VERSIONS:
            raise self.damaged(f"version {version} (2 and 3 are known; big-endian files are not)")
        num_tensors, num_keys = self.count(_MAX_TENSORS, "tensors"), self.count(_MAX_KEYS, "keys")
        keys = tuple(self.key() for _ in range(num_keys))
        self.unique([key.name for key in keys], "key")
        found = [self.tensor() for _ in range(num_tensors)]
        self.unique([name for name, *_ in found], "tensor")
        alignment = next((key.value for key in keys if key.name == "general.alignment"), ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or alignment < 1
            or alignment > 1 << 20
            or alignment & (alignment - 1)
        ):
            raise self.damaged(f"alignment {alignment!r}")
        start = padded(self.stream.tell(), alignment)
        return GgufFile(self.path, version, keys, self.placed(found, alignment, start), alignment, start)

    def unique(self, names: list[str], what: str) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self.damaged(f"the {what} {one_line(name, 80)!r} is there twice")
            seen.add(name)

    def key(self) -> Key:
        name = self.name()
        begin = self.stream.tell()
        kind = int(self.number("I"))
        self.skip_value(kind, depth=0)
        end = self.stream.tell()
        # Back to the type: what was only measured so far is kept as bytes, to be copied as it is.
        self.stream.seek(begin)
        return Key(name, kind, self.take(end - begin))

    def skip_value(self, kind: int, depth: int) -> None:
        if kind in CODES:
            self.take(struct.calcsize("<" + CODES[kind]))
        elif kind == STRING:
            self.take(self.count(self.size, "bytes in a string"))
        # Hardly a file nests lists; one made for it would, until the stack ends.
        elif kind == ARRAY and depth < 4:
            inner, count = int(self.number("I")), self.count(self.size, "entries in a list")
            if inner in CODES:
                self.take(count * struct.calcsize("<" + CODES[inner]))
            else:
                for _ in range(count):
                    self.skip_value(inner, depth + 1)
        else:
            raise self.damaged(f"a value of type {kind}")

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.name()
        num_dims = int(self.number("I"))
        if num_dims > _MAX_DIMS:
            raise self.damaged(f"a tensor of {num_dims} dimensions")
        dims = tuple(int(self.number("Q")) for _ in range(num_dims))
        return name, dims, int(self.number("I")), int(self.number("Q"))

    def placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], alignment: int, start: int
    ) -> tuple[Tensor, ...]:
        """Tensors with their sizes, checked: contiguous, and all inside the file."""
        tensors, expected = [], 0
        nbytes = _sizes()
        for number, (name, dims, kind, offset) in enumerate(found):
            if offset != expected:
                raise self.damaged(
                    f"the tensor {one_line(name, 80)!r} lies at {offset} where {expected} follows"
                )
            size = nbytes(dims, kind)
            if size is None:
                # A type newer than the installed package: its bytes are whatever lies before the next tensor.
                last = number + 1 == len(found)
                after = self.size - start if last else found[number + 1][3]
                size = after - offset
            if size < 0 or start + offset + size > self.size:
                raise self.damaged(
                    f"it was cut short: the tensor {one_line(name, 80)!r} ends at {start + offset + size} and the "
                    f"file at {self.size} bytes"
                )
            tensors.append(Tensor(name, dims, kind, offset, size))
            expected = padded(offset + size, alignment)
        return tuple(tensors)


def padded(position: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-position // alignment) * alignment


def _sizes() -> Callable[[tuple[int, ...], int], int | None]:
    """Bytes of a tensor by its dimensions and type; None for types newer than the installed `gguf`."""
    constants = gguf_package().constants
    table = {int(kind): value for kind, value in constants.GGML_QUANT_SIZES.items()}

    def nbytes(dims: tuple[int, ...], kind: int) -> int | None:
        if kind not in table:
            return None
        count = 1
        for size in dims:
            count *= size
        block, width = table[kind]
        return int(count // block * width)

    return nbytes


def gguf_package() -> Any:
    """The `gguf` package, or how to get it."""
    try:
        import gguf
    except ImportError as error:
        raise RopewalkError(
            "the package gguf is not installed", hint="pip install 'ropewalk[gguf]'"
        ) from error
    return gguf
