"""JSON in run folders: strict when written, bounded and named when read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, one_line

# Far beyond any result: what is larger is none of ours, and would only fill the memory.
MAX_BYTES = 256 * 1024**2


def finite(value: Any) -> Any:
    """A document with NaN and infinities as null, numpy values as plain ones, paths as text, and text that UTF-8 can
    hold: undecodable bytes of a file name reach Python as lone surrogates."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {finite(str(key)): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, Path):
        return finite(str(value))
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return value


def read_document(path: Path) -> Any:
    """One JSON document from a file of a run; DamagedError names the file."""
    again = "run its command again, or restore the file"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedError(f"{path} is larger than any result ({path.stat().st_size} bytes)", hint=again)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DamagedError(f"cannot read {path} ({one_line(error.strerror or error)})", hint=again) from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not JSON ({one_line(error, 120)})", hint=again) from error
