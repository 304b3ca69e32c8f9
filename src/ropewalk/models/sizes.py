"""How many parameters a folder's weights hold, from the headers of its safetensors files alone."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from ropewalk.models.source import resolve

_LARGEST_HEADER = 100 << 20


def parameters_of(source: str | Path) -> int | None:
    """The elements of every tensor, or None where no readable weights lie beside config.json."""
    folder = resolve(source)
    folder = folder if folder.is_dir() else folder.parent
    counts = [_elements(path) for path in sorted(folder.glob("*.safetensors"))]
    if not counts or None in counts:
        return None
    return sum(count for count in counts if count is not None)


def _elements(path: Path) -> int | None:
    """Elements in one file: eight bytes of header length, then JSON with a shape for each tensor."""
    try:
        with open(path, "rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > _LARGEST_HEADER:
                return None
            header = json.loads(stream.read(size))
        return int(sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
