"""The model of a run and its weights: whole on every process, or split over them before anything is read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ropewalk.models.checkpoint.weights import find_weights
from ropewalk.models.source import resolve
from ropewalk.training.engine import Engine
from ropewalk.training.model.build import build_model
from ropewalk.training.model.lora import own_name
from ropewalk.training.model.quantised import Quantisation, quantisation_of
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.settings import Settings
from ropewalk.training.state.checkpoint import Checkpoint
from ropewalk.training.state.sharded import fits_straight, names_in, places, read_parts
from ropewalk.training.state.weights import TRAINED, is_sharded, read_weights


@dataclass
class Loaded:
    """A model on its way into the memory of the processes.

    `straight` under engine fsdp2: it is empty until it is split, then each process reads its own part, and none ever
    holds the whole.
    """

    model: Any
    recipe: Recipe
    engine: Engine
    quantisation: Quantisation | None
    straight: bool

    def fill(self, checkpoint: Checkpoint | None) -> None:
        """Read the weights of the checkpoint, if there is one, and put the model where it will be trained."""
        if self.straight:
            self._split_and_fill(checkpoint)
            return
        if checkpoint is not None:
            read_weights(checkpoint.path, self.model)
        # What the parts try on the model, they try where it will be trained: kernels differ between devices.
        # A split model is there already, and moving it would split again what is gathered for them.
        if self.quantisation is None or not self.quantisation.packed:
            self.model.to(self.engine.accelerator.device)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The precision under which parts try something on the model before it is wrapped."""
        # Where layers travel in bfloat16 they are asked under mixed precision alone, as they will be trained; and
        # FlashAttention has no float32.
        mixed = self.straight or self.recipe.model.attention == "flash_attention_2"
        return self.engine.accelerator.autocast() if mixed else contextlib.nullcontext()

    def split(self) -> None:
        """After the trials of the parts: each process keeps its own part of the weights alone."""
        if self.straight:
            # What was left gathered for the trials is split again.
            self.engine.settle(self.model)
        else:
            self.engine.shard(self.model)

    def _split_and_fill(self, checkpoint: Checkpoint | None) -> None:
        # Under LoRA the base always has its own files' weights; what is trained, the checkpoint's if there is one.
        model, device = self.model, self.engine.accelerator.device
        self.engine.shard(model)
        whole = None if checkpoint is None or is_sharded(checkpoint.path) else checkpoint.path
        if self.recipe.lora is None:
            files = (
                _weights_of(self.recipe) if whole is None else names_in(sorted(whole.glob("*.safetensors")))
            )
            read_parts(model, places(model, files), device)
        else:
            read_parts(model, places(model, _weights_of(self.recipe), own_name), device)
            if whole is not None:
                read_parts(model, places(model, names_in([whole / TRAINED])), device)
        model.to(device)
        with torch.no_grad(), self.engine.accelerator.autocast():
            # Leaves the outermost weights gathered, so that parts of the model can be asked by themselves.
            model(input_ids=torch.arange(2, device=device)[None], use_cache=False)


def load(settings: Settings, engine: Engine, tokenizer: Any) -> Loaded:
    """Build the model that the recipe trains; empty where its weights are to be read part by part."""
    recipe, warn = settings.recipe, settings.progress.warn
    device = engine.accelerator.device
    quantisation = quantisation_of(recipe)
    if quantisation is not None and quantisation.remark is not None:
        warn(quantisation.remark)
    looking = {
        "a temperature is measured on it": recipe.temperature is not None,
        "retention copies it": recipe.retention is not None,
        "its weights are quantised": quantisation is not None,
    }
    reasons = [reason for reason, given in looking.items() if given]
    model = None
    if engine.name == "fsdp2" and recipe.model.path is not None:
        if not reasons:
            model = build_model(recipe, tokenizer, empty=True, device=device)
            if not fits_straight(model, _weights_of(recipe)):
                model, reasons = None, ["its files name weights otherwise than its modules"]
        for reason in reasons:
            warn(f"every process loads the whole model before it is split: {reason}")
    straight = model is not None
    if model is None:
        model = build_model(recipe, tokenizer, quantisation=quantisation, device=device)
    return Loaded(model, recipe, engine, quantisation, straight)


def _weights_of(recipe: Recipe) -> dict[str, Path]:
    """Tensor name -> file, of the base."""
    assert recipe.model.path is not None
    return names_in(sorted(find_weights(resolve(recipe.model.path, need_weights=True)).shards))
