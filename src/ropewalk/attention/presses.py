"""kvpress, where it is installed: one of its presses over the reading of a prompt. Nothing of it is rebuilt here.

`kvpress:KnormPress:0.5` is `kvpress.KnormPress(compression_ratio=0.5)`. A press is a context manager over a model; its
hooks compress what the first forward of a text left in the cache, so the prompt is read in one piece, and positions are
told to the model from then on, since the cache no longer knows them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from ropewalk.attention.interface import attention_modules
from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line


def press_of(name: str, ratio: float) -> Any:
    """A press by the name of its class; refused in words where kvpress is not to be had."""
    try:
        import kvpress
    except ImportError as error:
        raise RopewalkError(
            f"kvpress is not to be had here ({one_line(error, 120)})",
            hint="pip install kvpress (it asks for a transformers below 5.3), or use q4 or q8, which need nothing",
        ) from error
    names = [item for item in dir(kvpress) if item.endswith("Press")]
    kind = getattr(kvpress, name, None) if name in names else None
    if not inspect.isclass(kind):
        raise UsageError(
            f"kvpress has no press {name!r}", hint=near_miss(name, names, otherwise=", ".join(names[:8]))
        )
    try:
        return kind(compression_ratio=ratio)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{name} cannot be made from a compression ratio of {ratio:g} ({one_line(error, 120)})",
            hint="name a press that takes compression_ratio, 0 up to 1",
        ) from error


@contextlib.contextmanager
def pressed(model: Any, press: Any) -> Iterator[None]:
    """Inside the block the press is on the model.

    Its hooks ask for `cache_position`, which newer attention modules are not given: it is told from the positions.
    """
    modules = attention_modules(model).values()
    hooks = [module.register_forward_pre_hook(_placed, with_kwargs=True) for module in modules]
    # The press hangs the rotary embedding under every attention; left there, it would be another model.
    had = [module for module in modules if "rotary_emb" in module._modules]
    try:
        with press(model):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in modules:
            if module not in had:
                module._modules.pop("rotary_emb", None)


def _placed(module: nn.Module, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    positions = kwargs.get("position_ids")
    if kwargs.get("cache_position") is None and positions is not None:
        kwargs = kwargs | {"cache_position": positions[0]}
    return inputs, kwargs
