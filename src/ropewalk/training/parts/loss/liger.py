"""liger-kernel's fused linear cross-entropy, where the package is installed and the tensors are on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ropewalk.training.parts.loss.losses import IGNORE


def liger_usable(device: torch.device) -> bool:
    """Whether the kernel can run on this device."""
    return device.type == "cuda" and find_spec("liger_kernel") is not None


def liger_sum(
    hidden_BTC: Tensor, weight_VC: Tensor, labels_BT: Tensor, *, bias: Tensor | None, softcap: float | None
) -> Tensor:
    """The sum of the tokens' losses in nats. The kernel takes neither token weights nor a scale."""
    from liger_kernel.transformers.functional import (  # type: ignore[import-not-found, unused-ignore]
        liger_fused_linear_cross_entropy,
    )

    total: Tensor = liger_fused_linear_cross_entropy(
        hidden_BTC.reshape(-1, hidden_BTC.shape[-1]),
        weight_VC,
        labels_BT.reshape(-1),
        bias=bias,
        ignore_index=IGNORE,
        reduction="sum",
        softcap=softcap,
    )
    return total
