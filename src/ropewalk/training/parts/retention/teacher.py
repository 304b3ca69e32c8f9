"""Keeping short quality: on short rows the hidden states stay near those of the model before it was stretched.

As LongReD's short-text distillation (arXiv:2502.07365): a frozen copy of the base, under its own rope, reads the same
row, and the distance between its hidden states and those of the model in training joins the loss.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import UsageError
from ropewalk.models.live.rotary import bare
from ropewalk.training.parts.layers import decoder_layers
from ropewalk.training.parts.memory.options import MemoryOptions
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.parts import Parts
from ropewalk.training.parts.retention.options import RetentionOptions

Batch = dict[str, Tensor]


class Retention:
    """The frozen base beside the model, and the distance between their hidden states on rows of its own window."""

    def __init__(self, options: RetentionOptions, teacher: Any, window: int) -> None:
        self.options, self.teacher, self.window = options, teacher, window
        self._seen: list[Tensor] | None = None

    @classmethod
    def of(
        cls, options: RetentionOptions | None, model: Any, *, window: int, shortest: int
    ) -> Retention | None:
        """Copy the base as it was loaded, before anything changes it; None where the recipe asks for none.

        `shortest` is the length of the run's shortest row: one longer than the `window` gives nothing to work on.
        """
        if options is None:
            return None
        if shortest > window:
            raise UsageError(
                f"retention has no row of at most {window} tokens, the model's original window, to work on",
                hint=f"give the stages a mix with shorter rows, for example mix: {{{window}: 0.25}}",
            )
        teacher = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(options, teacher, window)

    def install(self, options: PartsOptions, model: Any, device: torch.device) -> None:
        """Put the teacher where the model is, under the same borders, and watch the layers of both."""
        self.teacher.to(device)
        # The teacher is the base as it was, and has no backward pass whose memory could be saved.
        plain = {"memory": MemoryOptions(), "temperature": None, "zones": None}
        Parts(options.model_copy(update=plain)).install(self.teacher)
        for watched in (bare(model), self.teacher):
            for layer in chosen_layers(watched, self.options.layers):
                layer.register_forward_hook(self._note)

    def _note(self, _layer: nn.Module, _args: Any, output: Any) -> None:
        # Layers that are computed again in the backward pass are not asked a second time.
        if self._seen is not None:
            self._seen.append(output[0] if isinstance(output, tuple) else output)

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Inside, the outputs of the watched layers are collected."""
        self._seen = []
        try:
            yield self._seen
        finally:
            self._seen = None

    def applies(self, batch: Batch) -> bool:
        """Whether these rows lie in the window that the base was trained for."""
        return batch["input_ids"].shape[1] <= self.window

    def distance(self, states: list[Tensor], inputs: dict[str, Any], weights_BT: Tensor) -> Tensor:
        """The weighted sum over tokens of |h - h'|^2 / |h'|^2, the mean over the watched layers, times `distil`."""
        told = ("target_ids", "token_weights", "weigher")
        backbone = getattr(self.teacher, self.teacher.base_model_prefix)
        with torch.no_grad(), self.watching() as wanted:
            backbone(**{name: value for name, value in inputs.items() if name not in told})
        total = weights_BT.new_zeros(())
        for state, aim in zip(states, wanted, strict=True):
            aim = aim.float()
            apart = (state.float() - aim).square().sum(-1) / aim.square().sum(-1).clamp(min=1e-12)
            total = total + (apart * weights_BT).sum()
        return self.options.distil * total / len(states)


def chosen_layers(model: Any, count: int) -> list[nn.Module]:
    """`count` of the decoder layers at equal steps, the last among them; all where there are fewer."""
    layers = decoder_layers(model)
    count = min(count, len(layers))
    return [layers[(number + 1) * len(layers) // count - 1] for number in range(count)]
