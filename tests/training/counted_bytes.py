"""Bytes that a process of a launch holds of what it trains: between two micro-batches of a step, and after the step."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def local_bytes(tensors: Any) -> int:
    """Bytes of this process's own parts."""
    parts = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def whole_gradients(model: Any) -> int:
    """Bytes of gradients that FSDP2 keeps unsplit until they are summed."""
    from torch.distributed.fsdp import FSDPModule

    found = 0
    for module in model.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for item in group.fsdp_params:
                    if item.unsharded_accumulated_grad is not None:
                        found += local_bytes([item.unsharded_accumulated_grad])
    return found


def live_bytes() -> int:
    """Bytes of every tensor of this process, whoever holds it."""
    sizes = {}
    for item in gc.get_objects():
        if type(item) in (torch.Tensor, torch.nn.Parameter) and item.device.type == "cpu":
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


class Counting:
    """Inside, every training run of this process notes its bytes; `write` puts the last step's into a file."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __enter__(self) -> Counting:
        from ropewalk.training import engine

        real = engine.Engine.gradient_sync

        def gradient_sync(place: Any, model: Any, *, last: bool) -> Any:
            gradients = [tensor.grad for tensor in model.parameters() if tensor.grad is not None]
            if gradients:
                self.found["waiting"] = local_bytes(gradients) + whole_gradients(model)
            return real(place, model, last=last)

        def stepped(optimizer: Any, *_: Any) -> None:
            tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
            states = [
                state for tensor in tensors for key, state in optimizer.state[tensor].items() if key != "step"
            ]
            self.found |= {
                "parameters": local_bytes(tensors),
                "gradients": local_bytes([tensor.grad for tensor in tensors]),
                "optimiser": local_bytes(states),
                "live": live_bytes(),
            }

        engine.Engine.gradient_sync = gradient_sync  # type: ignore[method-assign]
        self._real = real
        self._hook = register_optimizer_step_post_hook(stepped)
        return self

    def __exit__(self, *_: object) -> None:
        from ropewalk.training import engine

        engine.Engine.gradient_sync = self._real  # type: ignore[method-assign]
        self._hook.remove()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.found))
        self.found = {}
