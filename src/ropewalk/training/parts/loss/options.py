"""What a recipe says of the loss. No torch here: it is read with a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ropewalk.training.vocabulary import Count, Strict, also


class LossOptions(Strict):
    """How the loss is computed: `auto` takes liger-kernel on a GPU where it is installed, our own chunks elsewhere.

    `chunk` is in tokens; unset it is 1024 on a GPU and 256 on a CPU, whose cache is small.
    """

    kernel: Literal["auto", "chunked", "liger", "plain"] = Field(
        "auto", validation_alias=also("kernel", "engine")
    )
    chunk: Count | None = None
