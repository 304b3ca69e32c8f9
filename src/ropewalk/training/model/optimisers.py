"""The optimisers that a recipe can name, each made from its settings for a model; one learning rate serves all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ropewalk.errors import RopewalkError
from ropewalk.training.recipe.recipe import OptimizerPart

Named = list[tuple[str, nn.Parameter]]


def make_optimizer(part: OptimizerPart, model: nn.Module) -> Optimizer:
    """The optimiser over what the model trains; norms, biases and other vectors get no weight decay."""
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    return OPTIMISERS[part.name](part, model, trained)


def adamw(part: OptimizerPart, model: nn.Module, trained: Named) -> Optimizer:
    """torch's AdamW, in one kernel where the tensors are plain ones."""
    plain = all(type(tensor.data) in (torch.Tensor, nn.Parameter) for _, tensor in trained)
    return torch.optim.AdamW(_groups(part, trained), fused=plain, **_settings(part))


def adamw_8bit(part: OptimizerPart, model: nn.Module, trained: Named) -> Optimizer:
    """AdamW with its two moments in 8 bits, by bitsandbytes."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RopewalkError(
            "optimizer adamw-8bit needs bitsandbytes, which is not installed", hint="install it, or use adamw"
        ) from error
    made: Optimizer = AdamW8bit(_groups(part, trained), **_settings(part))
    return made


def muon(part: OptimizerPart, model: nn.Module, trained: Named) -> Optimizer:
    """Muon for the matrices between the embeddings, AdamW for all else.

    Muon's update is scaled to the size that AdamW's has, as Moonlight does (arXiv:2502.16982), so that one learning
    rate fits both.
    """
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    apart = {id(tensor) for table in tables if table is not None for tensor in table.parameters()}
    inner = [(name, tensor) for name, tensor in trained if tensor.ndim == 2 and id(tensor) not in apart]
    # torch refuses an optimiser without parameters.
    if not inner:
        return adamw(part, model, trained)
    taken = {name for name, _ in inner}
    rest = [(name, tensor) for name, tensor in trained if name not in taken]
    matrices = torch.optim.Muon(
        [tensor for _, tensor in inner],
        lr=part.learning_rate,
        weight_decay=part.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return Together([matrices, *([adamw(part, model, rest)] if rest else [])])


class Together(Optimizer):
    """Several optimisers that step as one: the groups and the state of all of them, in one place."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts: list[Optimizer] = []
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups = self.param_groups[first:last]
            part.state = self.state
            first = last

    def __setstate__(self, state: dict[str, Any]) -> None:
        # `load_state_dict` ends here with new groups and a new state, which the parts must share as they did the old.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss


OPTIMISERS: dict[str, Callable[[OptimizerPart, nn.Module, Named], Optimizer]] = {
    "adamw": adamw,
    "adamw-8bit": adamw_8bit,
    "muon": muon,
}


def _groups(part: OptimizerPart, trained: Named) -> list[dict[str, Any]]:
    decayed = [tensor for _, tensor in trained if tensor.ndim >= 2]
    groups = [
        {"params": decayed, "weight_decay": part.weight_decay},
        {"params": [tensor for _, tensor in trained if tensor.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _settings(part: OptimizerPart) -> dict[str, Any]:
    return {"lr": part.learning_rate, "betas": part.betas, "eps": part.epsilon}
