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
from ropewalk.attention.maps import applied
from ropewalk.errors import UsageError
from ropewalk.models.live.rotary import bare
from ropewalk.training.parts.borders import check_skips, choose_method
from ropewalk.training.parts.loss.head import LossesOf, Weigher, install_head
from ropewalk.training.parts.loss.losses import IGNORE, shift_labels
from ropewalk.training.parts.memory.activations import activation_memory, no_effect, prepare
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.packing import attention_inputs, row_positions
from ropewalk.training.parts.positions import sample_positions
from ropewalk.training.parts.tempering import Tempering
from ropewalk.training.parts.weighting.weights import cropped_losses, token_weights
from ropewalk.training.parts.zones import zones_of

Batch = dict[str, Tensor]
_ZONES_REMARK = "zones are no part of a checkpoint: whoever reads one of this run must apply the same zones"


@dataclass
class Parts:
    """All parts with their options; random choices come from (seed, step, rank, number of the micro-batch)."""

    options: PartsOptions = field(default_factory=PartsOptions)
    scratch: Path | None = None
    tempering: Tempering | None = field(default=None, init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)
    _taken: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _method: str = field(default="none", repr=False)
    _unbroken: str = field(default="none", repr=False)

    def install(self, model: Any, *, some_ids: Callable[[], Tensor] | None = None) -> list[str]:
        """Prepare the model before it is wrapped for training; returns what the user should be told.

        `some_ids` gives token ids of text, (1, T), on which a temperature is measured.
        """
        base = bare(model)
        prepare(base, self.options.memory)
        implementation = base_implementation(base)
        # FlashAttention would guess borders from positions: it is told that a row is one document.
        self._unbroken = "varlen" if implementation.startswith("flash") else "none"
        if self.options.packing.boundaries == "block-diagonal":
            self._method = choose_method(base, self.options.packing)
            if self._method == "native":
                self._refuse_jumps(implementation)
        moving = any(part.moves_positions for part in self.options.changing)
        if self.options.positions.kind != "plain" or moving:
            check_skips(base, self._unbroken)
        if self.options.temperature is not None:
            if some_ids is None:
                raise UsageError("a temperature is measured on text", hint="pass some_ids")
            self.tempering = Tempering(
                base, self.options.temperature, some_ids().to(base.get_input_embeddings().weight.device)
            )
        if self.options.zones is not None:
            self._stack.enter_context(applied(base, zones_of(base, self.options.zones)))
        # Last: its trial is of the model as the other parts have left it.
        loss = install_head(base, self.options.loss)
        remarks = [
            None if self.tempering is None else self.tempering.remark,
            None if self.options.zones is None else _ZONES_REMARK,
            loss.remark,
            no_effect(self.options.memory),
        ]
        return [remark for remark in remarks if remark is not None]

    def activations(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """The context for forward and backward."""
        options = self.options.memory
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
        rngs = self._random(batch, step=step, rank=rank, number=number)
        length = batch["input_ids"].shape[1]
        device = batch["input_ids"].device
        made: Batch = {"input_ids": batch["input_ids"], "target_ids": shift_labels(batch["labels"])}
        documents = (
            batch["documents"].long() if "documents" in batch else torch.zeros_like(batch["input_ids"])
        )
        blocked = self.options.packing.boundaries == "block-diagonal" and bool(
            (documents != documents[:, :1]).any()
        )
        if blocked:
            # The end of a document cannot tell how the next begins, which it does not see.
            made["target_ids"][:, :-1][documents[:, 1:] != documents[:, :-1]] = IGNORE
        else:
            documents = torch.zeros_like(documents)
        made["documents"] = documents
        made["target_weights"] = _shifted_weights(batch, made["target_ids"])
        if self.options.positions.kind != "plain":
            placed = np.concatenate(
                [
                    sample_positions(
                        self.options.positions, length=length, batch=1, rng=rng, target_length=target_length
                    )
                    for rng in rngs
                ]
            )
        else:
            placed = row_positions(documents.cpu().numpy(), self.options.packing)
        made["position_ids"] = torch.from_numpy(placed).to(device)
        for part in self.options.changing:
            made = part.change(made, rngs=rngs, vocabulary_size=vocabulary_size)
        weighting = self.options.weighting
        if weighting.weighs and not weighting.needs_losses:
            made["target_weights"] = self._weights(made)
        if weighting.weighs or "weights" in batch:
            # Without it every scored token weighs 1, and a kernel that knows no weights will do.
            made["token_weights"] = made["target_weights"]
        return made

    def _random(self, batch: Batch, *, step: int, rank: int, number: int) -> list[np.random.Generator]:
        """Random numbers for each row by its number in the step: micro-batches and processes change nothing."""
        # The constant keeps these draws apart from those of data and curriculum, which come from the same seed.
        if "rows" in batch:
            return [
                np.random.default_rng([self.options.seed, 0x9A57, step, row])
                for row in batch["rows"].tolist()
            ]
        key = [self.options.seed, 0x9A57, step, rank, number]
        return [np.random.default_rng([*key, row]) for row in range(len(batch["input_ids"]))]

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments for the model's forward, loss included."""
        return {
            "input_ids": batch["input_ids"],
            "target_ids": batch["target_ids"],
            "token_weights": batch.get("token_weights"),
            "weigher": self.weigher(batch) if self.options.weighting.needs_losses else None,
            **self._attention_inputs(batch["documents"], batch["position_ids"]),
        }

    def weigher(self, batch: Batch) -> Weigher:
        """The function that weighs tokens by their loss, for this micro-batch."""

        def weigh(losses_BT: Tensor, losses_of: LossesOf) -> Tensor:
            cropped = None
            if self.options.weighting.long_tokens is not None:

                def run(inputs: Tensor, labels: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
                    return losses_of(labels, input_ids=inputs, **self._attention_inputs(documents, positions))

                cropped = cropped_losses(
                    run,
                    self.options.weighting.long_tokens,
                    inputs_BT=batch["input_ids"],
                    labels_BT=batch["target_ids"],
                    documents_BT=batch["documents"],
                    positions_BT=batch["position_ids"],
                )
            weights = self._weights(batch, losses_BT, cropped)
            self._taken.append(weights.sum())
            return weights

        return weigh

    def taken_weight(self) -> Tensor | None:
        """The sum of the weights that the losses of this process's micro-batches decided; None where none did."""
        if not self._taken:
            return None
        total = torch.stack(self._taken).sum()
        self._taken.clear()
        return total

    def _refuse_jumps(self, implementation: str) -> None:
        jumping = {
            "positions.kind": self.options.positions.kind != "plain",
            "packing.positions: run-on": self.options.packing.positions == "run-on",
        }
        jumping |= {part.name: part.moves_positions for part in self.options.changing}
        for name, given in jumping.items():
            if given:
                raise UsageError(
                    f"{name} moves positions, and {implementation} attention knows document borders by positions alone",
                    hint="use sdpa or flash_attention_2, or packing.boundaries none",
                )

    def _attention_inputs(self, documents: Tensor, positions: Tensor) -> dict[str, Any]:
        blocked = bool((documents != documents[:, :1]).any())
        # Rows of one document each need no borders, and stay with the plain kernel.
        return attention_inputs(documents, positions, method=self._method if blocked else self._unbroken)

    def _weights(self, batch: Batch, losses: Tensor | None = None, cropped: Tensor | None = None) -> Tensor:
        return token_weights(
            self.options.weighting,
            labels_BT=batch["target_ids"],
            inputs_BT=batch["input_ids"],
            documents_BT=batch["documents"],
            losses_BT=losses,
            cropped_losses_BT=cropped,
            base_BT=batch["target_weights"],
        )


def _shifted_weights(batch: Batch, target_ids: Tensor) -> Tensor:
    scored = (target_ids != IGNORE).float()
    if "weights" not in batch:
        return scored
    return scored * torch.nn.functional.pad(batch["weights"][:, 1:].float(), (0, 1))
