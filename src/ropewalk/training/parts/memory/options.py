"""What a recipe says of activations. No torch here: it is read with a recipe."""

from __future__ import annotations

from typing import Literal

from ropewalk.training.vocabulary import Bytes, Count, Strict


class MemoryOptions(Strict):
    """Where activations live between forward and backward: `checkpoint_every: 2` recomputes every other layer."""

    checkpointing: bool = False
    checkpoint_every: Count = 1
    offload: Literal["none", "cpu", "disk"] = "none"
    offload_folder: str | None = None
    offload_limit: Bytes | None = None
    offload_smallest: Bytes = 256 * 1024
