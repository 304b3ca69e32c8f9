"""A run that is going on: what it is made of, how far it is, and what a step and a checkpoint ask of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import RopewalkError
from ropewalk.training.data.batches import StepBatch
from ropewalk.training.data.mixture import Mixture
from ropewalk.training.data.stages import Curriculum, LearningRate
from ropewalk.training.engine import Engine
from ropewalk.training.metrics import Metrics
from ropewalk.training.model.build import Rope
from ropewalk.training.objective import Batch, shared_batch, summed_loss, target_weight
from ropewalk.training.parts.parts import Parts
from ropewalk.training.parts.retention.teacher import Retention
from ropewalk.training.progress import Progress
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.settings import Evaluate
from ropewalk.training.state.checkpoint import Checkpoint
from ropewalk.training.state.random_state import gathered_random, put_own_random
from ropewalk.training.state.served import declared_dtype
from ropewalk.training.state.sharded import read_shards
from ropewalk.training.state.weights import is_sharded, names_of, put_optimizer, read_training


class NonFiniteError(RopewalkError):
    """A loss or a gradient that is not a number: the run stops, its last checkpoint is good."""


@dataclass(frozen=True)
class Setup:
    """What stands before the first step: all that a loop needs, made by `prepare`."""

    recipe: Recipe
    folder: Path
    model: Any
    tokenizer: Any
    parts: Parts
    retention: Retention | None
    engine: Engine
    mixture: Mixture
    curriculum: Curriculum
    rope: Rope
    progress: Progress
    evaluations: list[Evaluate]
    resume_from: Checkpoint | None
    described: dict[str, Any]
    take_up: Callable[[], None]


class Running:
    """Everything of a run that has to survive a kill, and what one step does with a micro-batch."""

    def __init__(self, setup: Setup) -> None:
        self.recipe, self.folder, self.tokenizer = setup.recipe, setup.folder, setup.tokenizer
        self.model, self.parts, self.engine = setup.model, setup.parts, setup.engine
        self.mixture, self.curriculum, self.rope = setup.mixture, setup.curriculum, setup.rope
        self.retention = setup.retention
        self.progress, self.evaluations = setup.progress, setup.evaluations
        self.resume_from, self.described, self.take_up = setup.resume_from, setup.described, setup.take_up
        self.vocabulary_size = self.model.get_input_embeddings().weight.shape[0]
        self.declared_dtype = declared_dtype(self.recipe.model)
        self.wrapped: Any = self.model
        self.optimizer: torch.optim.Optimizer
        self.rate = LearningRate.of(self.recipe.optimizer, self.curriculum.max_steps)
        self.metrics = Metrics(self.folder / "metrics.jsonl")
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.loss_sum, self.loss_steps, self.documents = 0.0, 0, 0
        self.last_loss: float | None = None
        self.last_evaluation: dict[str, float] = {}
        self.entered: int | None = None
        self.trained_stage = 0
        self.batch: StepBatch | None = None
        # The newest checkpoint that stands under its name.
        self.saved = None if self.resume_from is None else self.resume_from.path

    def transform(self, batch: Batch, number: int) -> Batch:
        """This process's part of micro-batch `number` of a step, after all that the recipe does to it."""
        whole = self.parts.transform(
            batch,
            step=self.step,
            rank=self.engine.data_rank,
            number=number,
            # 0 where the config names no window.
            target_length=self.rope.reached[self.curriculum.state.stage] or None,
            vocabulary_size=self.vocabulary_size,
        )
        return whole if self.engine.sharing is None else shared_batch(self.engine.sharing, whole)

    def rows(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Where attention is over rows that several processes share, if they do."""
        if self.engine.sharing is None:
            return contextlib.nullcontext()
        return self.engine.sharing.rows(batch["row_documents"])

    def objective(self, model: Any, batch: Batch) -> torch.Tensor:
        """The summed loss of a transformed micro-batch."""
        inputs, weight = self.parts.model_inputs(batch), target_weight(batch)
        if self.retention is None or not self.retention.applies(batch):
            return summed_loss(model, inputs, weight)
        with self.retention.watching() as states:
            loss = summed_loss(model, inputs, weight)
        # accelerate wraps the trained model's forward alone: the teacher's comes under the same precision here.
        with self.engine.accelerator.autocast():
            return loss + self.retention.distance(states, inputs, batch["target_weights"])

    def non_finite(self, what: str) -> NonFiniteError:
        """The error of a step whose loss or gradient is no number."""
        names = self.batch.names if self.batch is not None else ()
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        good = self.saved.name if self.saved is not None else "none yet"
        return NonFiniteError(
            f"step {self.step + 1}: {what}; documents of the batch: {shown}; last good checkpoint: {good}",
            hint="lower the learning rate or leave the documents out, then resume with --resume --allow-changes",
        )

    # What a checkpoint keeps beside the weights.

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(JSON, random tensors). Every rank must call: states are gathered."""
        documents, random_tensors = gathered_random(self.engine.world)
        document = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "documents": self.documents,
            "last_loss": self.last_loss,
            "last_evaluation": self.last_evaluation,
            "trained_stage": self.trained_stage,
            "curriculum": self.curriculum.to_json(),
            "data": self.mixture.state(),
            "optimizer": self.recipe.optimizer.name,
            "random": documents,
        }
        return document, random_tensors

    def restore(self, checkpoint: Path) -> None:
        """Put back what a checkpoint keeps beside the weights."""
        tensors, random_tensors, state = read_training(checkpoint)
        before, now = state.get("optimizer", self.recipe.optimizer.name), self.recipe.optimizer.name
        if before != now:
            self.progress.warn(f"the state of {before} is of no use to {now}: the optimiser starts anew")
        if is_sharded(checkpoint):
            read_shards(checkpoint, self.model, self.optimizer if before == now else None)
        elif before == now:
            put_optimizer(self.optimizer, names_of(self.model), tensors)
        # A checkpoint at the end of a stage names the next one, and its position still counts the stage before.
        self.mixture.share(self.curriculum.stages[state["trained_stage"]].sources)
        self.mixture.restore(state["data"])
        self._restore_counters(state)
        # A checkpoint may fall between two lines of the log: the mean of the next covers the steps before it too.
        self.loss_sum, self.loss_steps = state["loss_sum"], state["loss_steps"]
        self.documents = state.get("documents", 0)
        put_own_random(state["random"], random_tensors, self.engine.rank)

    def _restore_counters(self, state: dict[str, Any]) -> None:
        self.curriculum.restore(state["curriculum"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.last_loss, self.last_evaluation = state["last_loss"], state["last_evaluation"]

    def restore_finished(self) -> None:
        """Take up the counters of a run that is already finished: there is nothing left to train."""
        assert self.resume_from is not None
        self._restore_counters(read_training(self.resume_from.path)[2])
