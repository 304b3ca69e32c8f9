"""One model over several devices, for models that no single one can hold."""

from __future__ import annotations

from typing import Any

from ropewalk.errors import RopewalkError, one_line

ALL = "all"


def spread(model: Any, device_map: dict[str, Any] | None = None) -> Any:
    """Place a model's layers on every accelerator there is, and what does not fit there on the CPU.

    `device_map` (module name to device) places them by hand. A layer is never cut in two. Layers left on the CPU
    visit an accelerator for each forward, which is slow and says so by nothing but its pace.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    try:
        if device_map is None:
            memory = get_balanced_memory(model, no_split_module_classes=whole)
            device_map = dict(infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole))
        # Hooks even on a single device: without them accelerate moves the model and leaves inputs where they are.
        return dispatch_model(model, device_map=device_map, force_hooks=True)
    except (ValueError, RuntimeError) as error:
        raise RopewalkError(
            f"the model cannot be spread over the devices here ({one_line(error, 160)})",
            hint="use one device, --device cpu at worst, or --dtype bfloat16",
        ) from error


def own_dtype(source: str, wanted: str) -> str:
    """`auto` as the checkpoint's own type where there is an accelerator: the model passes through CPU memory first."""
    import torch

    from ropewalk.models.facts import read_facts
    from ropewalk.models.load import DTYPES

    if wanted != "auto" or not torch.cuda.is_available():
        return wanted
    dtype = read_facts(source).dtype
    return dtype if dtype in DTYPES else wanted
