"""How many parameters a folder's weights hold, from the headers of its safetensors files alone."""

from __future__ import annotations

from pathlib import Path

from ropewalk.errors import RopewalkError
from ropewalk.models.checkpoint.weights import find_weights
from ropewalk.models.source import resolve


def parameters_of(source: str | Path) -> int | None:
    """The elements of every tensor, or None where no whole, readable weights lie beside config.json.

    Only what a load reads counts: some releases keep their weights a second time, in one file for other software.
    """
    folder = resolve(source)
    folder = folder if folder.is_dir() else folder.parent
    try:
        return find_weights(folder).num_parameters
    except (RopewalkError, OSError):
        # A count that misses a shard would pass for the exact one: the estimate from config.json is better.
        return None
