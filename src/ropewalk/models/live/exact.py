"""Rotation angles in float64, for positions in the millions: reduced before the cast, so that nothing is lost."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ropewalk.errors import RopewalkError
from ropewalk.models.live.rotary import bare, rotary_modules
from ropewalk.models.live.state import Patch

_WIDENED = {torch.Tensor.float: torch.Tensor.double}
_FACTORY_CASTS = (torch.Tensor.to,)


class Exact:
    """Float64 angles in force on a model; `remove()`, or leaving the `with` block, restores it."""

    def __init__(self, patch: Patch) -> None:
        self._patch = patch

    def remove(self) -> None:
        """Restore the model's own forward. Removing twice does nothing."""
        self._patch.undo()

    def __enter__(self) -> Exact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def exact_positions(model: Any) -> Exact:
    """Compute every rotary angle of a loaded model in float64, until `.remove()`.

    Stock code multiplies position and frequency in float32: at position 1M the angle is off by hundredths of a
    radian. Here the module's own forward runs with float64 in float32's place; cosine and sine reduce the angle
    before anything is cast down. The frequencies stay the module's own float32 ones, so nothing but the rounding
    changes. Works with whatever schedule is in force, in any order with `apply`.
    """
    live = bare(model)
    modules = rotary_modules(live)
    if not modules:
        raise RopewalkError(
            f"{type(live).__name__} has no rotary module to compute in float64",
            hint="models that rotate by tables get exact ones from ropewalk.apply",
        )
    if any(
        buffer.device.type == "mps" for module in modules.values() for buffer in module.buffers(recurse=False)
    ):
        raise RopewalkError("MPS has no float64", hint="run on a CPU or a CUDA device")
    patch = Patch()
    for module in modules.values():
        # On the object, not the class: other models of this process stay as they are.
        patch.set(vars(module), "forward", _Forward(module))
    return Exact(patch)


class _Forward:
    """A rotary module's forward, run in float64 and cast to the type it would have had."""

    def __init__(self, module: Any) -> None:
        self._inner = module.forward

    def __call__(self, x: Any, *inputs: Any, **keywords: Any) -> Any:
        with _Wide():
            result = self._inner(x, *inputs, **keywords)
        return _narrowed(result, x.dtype)


def _narrowed(result: Any, dtype: torch.dtype) -> Any:
    if isinstance(result, tuple):
        return tuple(_narrowed(part, dtype) for part in result)
    if isinstance(result, torch.Tensor) and result.dtype == torch.complex128:
        return result.to(torch.complex64)
    if not isinstance(result, torch.Tensor) or result.dtype != torch.float64 or dtype == torch.float64:
        return result
    # A forward that casts to the model's own half type has done so already; what is still wide was float32.
    return result.to(torch.float32)


class _Wide(TorchFunctionMode):
    """Reads every wish for float32 as one for float64, inside a rotary forward."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        func = _WIDENED.get(func, func)
        if func in _FACTORY_CASTS:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
