"""How much of a device's arithmetic a run uses: model FLOPs utilisation, where the device is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.models.facts import read_facts
from ropewalk.plan import shape_of
from ropewalk.planning.cost import training_flops
from ropewalk.planning.shape import ModelShape

# Dense bfloat16 operations a second with float32 sums, from the makers' data sheets; the longest name that fits counts.
PEAK_FLOPS = {
    "A10": 125e12,
    "A100": 312e12,
    "A800": 312e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "H800": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}


def peak_flops(name: str) -> float | None:
    """The peak of a device by the name that torch gives it; None for one that is not in the table.

    >>> peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA A10G"), peak_flops("NVIDIA L40")
    (756000000000000.0, None, None)
    """
    words = f" {' '.join(name.replace('-', ' ').split())} "
    fitting = [key for key in PEAK_FLOPS if f" {key} " in words]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


@dataclass
class Utilisation:
    """Operations that the model needs, counted step by step, against the `peak` of all devices together.

    What checkpointing computes again does not count. Frozen weights have no gradient of their own: two operations less.
    """

    shape: ModelShape
    peak: float
    frozen: int = 0
    done: float = 0.0

    @classmethod
    def of(cls, model: Any, *, mixed: bool, world: int) -> Utilisation | None:
        """For a model on its device; None where the device is unknown, or computes in float32."""
        import torch

        from ropewalk.training.model.quantised import count_parameters

        device = next(model.parameters()).device
        if device.type != "cuda" or not (mixed or model.dtype == torch.bfloat16):
            return None
        peak = peak_flops(torch.cuda.get_device_name(device))
        if peak is None:
            return None
        total = count_parameters(model)
        frozen = total - count_parameters(model, trained=True)
        return cls(shape_of(read_facts(model.config.to_dict()), total), peak * world, frozen)

    def count(self, lengths: Sequence[int]) -> None:
        """A step of rows of these lengths."""
        share = min(1.0, self.frozen / max(1, self.shape.num_parameters))
        for length in lengths:
            saved = 2.0 * share * self.shape.active_parameters * length
            self.done += training_flops(self.shape, length, length) - saved

    def taken(self, seconds: float) -> float:
        """The share of the peak since the last call."""
        done, self.done = self.done, 0.0
        return done / max(seconds, 1e-9) / self.peak
