"""The parts of training put together: what happens to a model once, and to every micro-batch.

A micro-batch comes as Hugging Face means it: `input_ids` and `labels` (B, T) unshifted, `documents` with the number of
each token's document, and `weights`, where `weights[b, t]` weighs the prediction of token t. It leaves with shifted
`target_ids` and `target_weights`, and with the positions and borders that attention needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ropewalk.attention.interface import base_implementation
from ropewalk.attention.options import TemperatureOptions
from ropewalk.errors import UsageError
from ropewalk.training.data.packing import attention_inputs, row_positions
from ropewalk.training.parts.borders import check_skips, choose_engine
from ropewalk.training.parts.head import LossesOf, Weigher, install_head
from ropewalk.training.parts.losses import IGNORE, shift_labels
from ropewalk.training.parts.memory import activation_memory, no_effect, prepare
from ropewalk.training.parts.positions import sample_positions
from ropewalk.training.parts.tempering import Tempering
from ropewalk.training.parts.weighting import cropped_losses, drop_far, noisy_inputs, token_weights
from ropewalk.training.recipe.options import (
    LossOptions,
    MemoryOptions,
    PackingOptions,
    PositionOptions,
    WeightingOptions,
)

Batch = dict[str, Tensor]
ROW_KEYS = ("input_ids", "target_ids", "target_weights", "documents", "position_ids")


@dataclass
class Parts:
    """All parts with their options; random choices come from (seed, step, rank, number of the micro-batch)."""

    loss: LossOptions = field(default_factory=LossOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    positions: PositionOptions = field(default_factory=PositionOptions)
    packing: PackingOptions = field(default_factory=lambda: PackingOptions(boundaries="none"))
    weighting: WeightingOptions = field(default_factory=WeightingOptions)
    temperature: TemperatureOptions | None = None
    scratch: Path | None = None
    seed: int = 0
    tempering: Tempering | None = field(default=None, init=False)
    _engine: str = field(default="none", repr=False)
    _unbroken: str = field(default="none", repr=False)

    def install(self, model: Any, *, some_ids: Callable[[], Tensor] | None = None) -> list[str]:
        """Prepare the model before it is wrapped for training; returns what the user should be told.

        `some_ids` gives token ids of text, (1, T), on which a temperature is measured.
        """
        base = base_of(model)
        prepare(base, self.memory)
        implementation = base_implementation(base)
        # FlashAttention would guess borders from positions: it is told that a row is one document.
        self._unbroken = "varlen" if implementation.startswith("flash") else "none"
        if self.packing.boundaries == "block-diagonal":
            self._engine = choose_engine(base, self.packing)
            if self._engine == "native":
                self._refuse_jumps(implementation)
        if self.positions.kind != "plain" or self.weighting.far_drop is not None:
            check_skips(base, self._unbroken)
        if self.temperature is not None:
            if some_ids is None:
                raise UsageError("a temperature is measured on text", hint="pass some_ids")
            self.tempering = Tempering(
                base, self.temperature, some_ids().to(base.get_input_embeddings().weight.device)
            )
        loss = install_head(base, self.loss)
        remarks = [
            None if self.tempering is None else self.tempering.remark,
            loss.remark,
            no_effect(self.memory),
        ]
        return [remark for remark in remarks if remark is not None]

    def activations(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """The context for forward and backward."""
        options = self.memory
        if options.offload == "disk" and options.offload_folder is None and self.scratch is not None:
            options = options.model_copy(update={"offload_folder": str(self.scratch)})
        return activation_memory(model, options)

    def transform(
        self,
        batch: Batch,
        *,
        step: int,
        rank: int,
        number: int,
        target_length: int | None,
        vocabulary_size: int,
    ) -> Batch:
        """What the model is given: noise, positions, borders, shifted labels and fixed weights."""
        rng = np.random.default_rng([self.seed, 0x9A57, step, rank, number])
        rows, length = batch["input_ids"].shape
        device = batch["input_ids"].device
        made: Batch = {"input_ids": batch["input_ids"], "target_ids": shift_labels(batch["labels"])}
        documents = (
            batch["documents"].long() if "documents" in batch else torch.zeros_like(batch["input_ids"])
        )
        blocked = self.packing.boundaries == "block-diagonal" and bool((documents != documents[:, :1]).any())
        if blocked:
            made["target_ids"][:, :-1][documents[:, 1:] != documents[:, :-1]] = IGNORE
        else:
            documents = torch.zeros_like(documents)
        made["documents"] = documents
        made["target_weights"] = _shifted_weights(batch, made["target_ids"])
        if self.positions.kind != "plain":
            placed = sample_positions(
                self.positions, length=length, batch=rows, rng=rng, target_length=target_length
            )
        else:
            placed = row_positions(documents.cpu().numpy(), self.packing)
        made["position_ids"] = torch.from_numpy(placed).to(device)
        if self.weighting.input_noise is not None:
            made["input_ids"] = noisy_inputs(
                self.weighting.input_noise, made["input_ids"], vocabulary_size=vocabulary_size, rng=rng
            )
        if self.weighting.far_drop is not None:
            made = drop_far(self.weighting.far_drop, made, rng=rng)
        if self.weighting.weighs and not self.weighting.needs_losses:
            made["target_weights"] = self._weights(made)
        return made

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments for the model's forward, loss included."""
        return {
            "input_ids": batch["input_ids"],
            "target_ids": batch["target_ids"],
            "token_weights": batch["target_weights"],
            "weigher": self.weigher(batch) if self.weighting.needs_losses else None,
            **self._attention_inputs(batch["documents"], batch["position_ids"]),
        }

    def weigher(self, batch: Batch) -> Weigher:
        """The function that weighs tokens by their loss, for this micro-batch."""

        def weigh(losses_BT: Tensor, losses_of: LossesOf) -> Tensor:
            cropped = None
            if self.weighting.long_tokens is not None:

                def run(inputs: Tensor, labels: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
                    return losses_of(labels, input_ids=inputs, **self._attention_inputs(documents, positions))

                cropped = cropped_losses(
                    run,
                    self.weighting.long_tokens,
                    inputs_BT=batch["input_ids"],
                    labels_BT=batch["target_ids"],
                    documents_BT=batch["documents"],
                    positions_BT=batch["position_ids"],
                )
            return self._weights(batch, losses_BT, cropped)

        return weigh

    def _refuse_jumps(self, implementation: str) -> None:
        jumping = {
            "positions.kind": self.positions.kind != "plain",
            "packing.positions: run-on": self.packing.positions == "run-on",
            "weighting.far_drop": self.weighting.far_drop is not None,
        }
        for name, given in jumping.items():
            if given:
                raise UsageError(
                    f"{name} moves positions, and {implementation} attention knows document borders by positions alone",
                    hint="use sdpa or flash_attention_2, or packing.boundaries none",
                )

    def _attention_inputs(self, documents: Tensor, positions: Tensor) -> dict[str, Any]:
        blocked = bool((documents != documents[:, :1]).any())
        return attention_inputs(documents, positions, engine=self._engine if blocked else self._unbroken)

    def _weights(self, batch: Batch, losses: Tensor | None = None, cropped: Tensor | None = None) -> Tensor:
        return token_weights(
            self.weighting,
            labels_BT=batch["target_ids"],
            inputs_BT=batch["input_ids"],
            documents_BT=batch["documents"],
            losses_BT=losses,
            cropped_losses_BT=cropped,
            base_BT=batch["target_weights"],
        )


def base_of(model: Any) -> Any:
    """The model itself, inside its adapters where it has some."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _shifted_weights(batch: Batch, target_ids: Tensor) -> Tensor:
    scored = (target_ids != IGNORE).float()
    if "weights" not in batch:
        return scored
    return scored * torch.nn.functional.pad(batch["weights"][:, 1:].float(), (0, 1))
