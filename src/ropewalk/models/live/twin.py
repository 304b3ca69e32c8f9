"""A weightless twin: the model that stock transformers would build from a configuration, with its rotary values real.

The twin is built on the meta device, so a 70B model costs no memory. Its rotary modules are then filled by the same
function that `from_pretrained` fills them with, on the CPU as there: they hold the very bits of a stock reload.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.live.rotary import rotary_modules
from ropewalk.models.load import quiet_transformers


def twin_of(model: Any, config: Mapping[str, Any]) -> Any:
    """The model of `model`'s class that stock transformers builds from `config`: on the meta device, rotary part real.

    Raises RopewalkError where stock transformers refuses the configuration.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise RopewalkError(
            f"{type(model).__name__} is no transformers model", hint="load it with AutoModelForCausalLM"
        )
    try:
        with quiet_transformers(), unfilled():
            built = type(model)(type(model.config).from_dict(copy.deepcopy(dict(config))))
        with quiet_transformers(), torch.no_grad():
            fill_rotary(built)
    except Exception as error:
        # Whatever validation, construction or initialisation of stock code objects to is the reason to give.
        raise RopewalkError(
            f"stock transformers does not build this configuration ({type(error).__name__}: {one_line(error, 160)})",
            hint="apply the schedule in memory, or use another method",
        ) from error
    return built


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Modules are made on the meta device and no weight is drawn."""
    from transformers import initialization

    with contextlib.ExitStack() as stack:
        stack.enter_context(initialization.no_init_weights())
        stack.enter_context(torch.device("meta"))
        safe = getattr(initialization, "meta_device_safe_creation_ops", None)
        if safe is not None:
            stack.enter_context(safe())
        yield


def fill_rotary(built: Any) -> None:
    """Real buffers for every rotary module, filled by the initialiser of the sub-model that owns it."""
    for path, module in rotary_modules(built).items():
        module.to_empty(device="cpu", recurse=False)
        for buffer in module.buffers(recurse=False):
            # What stays NaN was filled by nobody.
            buffer.fill_(torch.nan if buffer.is_floating_point() else 0)
        with torch.device("cpu"):
            _owner(built, path)._init_weights(module)
            if any(buffer.isnan().any() for buffer in module.buffers(recurse=False)):
                # Code from outside the library fills its buffers in the constructor alone.
                module._buffers |= type(module)(module.config)._buffers


def _owner(built: Any, path: str) -> Any:
    """The innermost transformers model around a module: composites initialise each part by its own rules."""
    from transformers import PreTrainedModel

    owner, here = built, built
    for part in path.split(".")[:-1]:
        here = getattr(here, part)
        if isinstance(here, PreTrainedModel):
            owner = here
    return owner
