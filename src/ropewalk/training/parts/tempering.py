"""A temperature while a model trains: measured at the start, folded into every checkpoint, taken up again on resume."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.options import PARAMETER, TemperatureOptions
from ropewalk.attention.temperature import AppliedTemperature, apply_temperature, measure_logit_std
from ropewalk.errors import DamagedError


class Tempering:
    """The temperature of a run.

    Checkpoints hold the folded weights, which stock software computes alike; what was folded is kept beside them, so
    that a resumed run goes on with the very same numbers.
    """

    def __init__(self, model: Any, options: TemperatureOptions, input_ids: Tensor) -> None:
        self.model = model
        spread = measure_logit_std(model, input_ids) if options.rule == "per-head" else None
        self.applied: AppliedTemperature = apply_temperature(model, options, logit_std=spread)
        if not self.applied.foldable:
            return
        # Met now rather than at the first checkpoint: a constant that the architecture cannot hold is an error.
        # Under LoRA the weights to be folded into are peft's base layers.
        if any(".base_layer." in name for name, _ in model.named_parameters()):
            self.applied.folded(
                {name.replace(".base_layer.", "."): item for name, item in model.state_dict().items()}
            )
        else:
            self.applied.check_fold()

    @property
    def remark(self) -> str | None:
        """What a user must know of a temperature that no weights can hold."""
        if self.applied.foldable:
            return None
        rule = self.applied.options.rule
        return (
            f"temperature {rule} depends on the position: checkpoints do not contain it, and software that does not "
            f"apply {rule} itself will compute something else"
        )

    def split(
        self, weights: dict[str, Tensor] | None, own: dict[str, Tensor], *, keep_weights: bool
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor]]:
        """(the weights to save, what to keep for a resume) from gathered weights and our own gathered tensors."""
        if weights is None:
            return None, own
        plain = {name: item for name, item in weights.items() if not name.endswith(PARAMETER)}
        if not self.applied.foldable:
            return plain, own
        folded = self.applied.folded(weights | own)
        # `folded` hands on the very tensors that it does not change, so identity tells which it did.
        changed = (
            {name: plain[name] for name in plain if folded[name] is not plain[name]} if keep_weights else {}
        )
        return folded, own | changed

    @torch.no_grad()
    def put(self, kept: dict[str, Tensor]) -> None:
        """Take up what `split` kept."""
        unexpected = self.model.load_state_dict(kept, strict=False).unexpected_keys
        if unexpected:
            raise DamagedError(
                f"the checkpoint's temperature does not fit the model: {unexpected[0]}",
                hint="use the run's own recipe",
            )
