"""Where a model keeps its decoder layers."""

from __future__ import annotations

from torch import nn


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The modules of the longest list of layers in the model."""
    lists = [item for item in model.modules() if isinstance(item, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []
