"""What happens between two optimiser steps: data, stages, metrics, evaluation, checkpoints. One object, one run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ropewalk.training.data.batches import StepBatch, make_step
from ropewalk.training.data.mixture import Mixture
from ropewalk.training.data.stages import Curriculum
from ropewalk.training.engine import Engine
from ropewalk.training.metrics import Metrics
from ropewalk.training.model.build import Rope
from ropewalk.training.objective import Batch, shared_batch, summed_loss, target_weight
from ropewalk.training.parts.parts import Parts
from ropewalk.training.progress import Progress, peak_memory_bytes
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.state.checkpoint import Checkpoint
from ropewalk.training.state.random_state import put_random, read_random
from ropewalk.training.state.weights import names_of, optimizer_tensors, put_optimizer, read_training
from ropewalk.training.trainer import NonFiniteError, RopewalkTrainer

Evaluate = Callable[[Any, int], dict[str, float] | None]


class Loop:
    """Everything of a run that has to survive a kill, and the hooks by which Trainer drives it."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        model: Any,
        parts: Parts,
        engine: Engine,
        mixture: Mixture,
        curriculum: Curriculum,
        rope: Rope,
        progress: Progress,
        save: Callable[[Loop], Path],
        evaluations: list[Evaluate],
        resume_from: Checkpoint | None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.model, self.mixture, self.curriculum, self.rope = model, mixture, curriculum, rope
        self.parts, self.engine = parts, engine
        self.vocabulary_size = model.get_input_embeddings().weight.shape[0]
        self.progress, self.save, self.evaluations = progress, save, evaluations
        self.resume_from = resume_from
        self.metrics = Metrics(folder / "metrics.jsonl")
        self.trainer: RopewalkTrainer
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.loss_sum, self.loss_steps = 0.0, 0
        self.last_loss: float | None = None
        self.last_evaluation: dict[str, float] = {}
        self.last_checkpoint: Path | None = None if resume_from is None else resume_from.path
        self.entered: int | None = None
        self.trained_stage = 0
        self.batch: StepBatch | None = None
        self.step_loss: torch.Tensor | None = None
        self._clock = time.monotonic()
        self._log_clock, self._log_tokens = self._clock, 0

    # What the trainer calls, in the order of a run.

    def prepared(self, wrapped: Any) -> None:
        """The model is wrapped and the optimiser exists: on resume, put back what a checkpoint kept."""
        self.engine.check(wrapped)
        with self.trainer.compute_loss_context_manager():
            self.engine.check_rows(wrapped, self.vocabulary_size, self.trainer.args.device)
        if self.resume_from is None:
            return
        tensors, random_tensors, state = read_training(self.resume_from.path)
        put_optimizer(self.trainer.optimizer, names_of(self.model), tensors)
        self.trainer.lr_scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self.trainer.optimizer.param_groups, state["learning_rates"], strict=True):
            group["lr"] = rate
        self.curriculum.restore(state["curriculum"])
        # A checkpoint at the end of a stage names the next one, and its position still counts the stage before.
        self.mixture.share(self.curriculum.stages[state["trained_stage"]].sources)
        self.mixture.restore(state["data"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.loss_sum, self.loss_steps = state["loss_sum"], state["loss_steps"]
        self.last_loss, self.last_evaluation = state["last_loss"], state["last_evaluation"]
        self._random = (state["random"], random_tensors)

    def begin(self) -> None:
        """Before the first step: counters and random states as they were."""
        self.trainer.state.global_step = self.step
        if self.engine.is_main:
            self.metrics.open(after_step=self.step)
        self._clock = self._log_clock = time.monotonic()
        rank = self.engine.rank
        if self.resume_from is None and rank:
            torch.manual_seed(self.recipe.seed + (rank << 32))
        if self.resume_from is not None:
            documents, tensors = self._random
            own = {
                name.partition("/")[2]: value
                for name, value in tensors.items()
                if name.startswith(f"{rank}/")
            }
            if str(rank) in documents:
                put_random(documents[str(rank)], own)

    def next_batch(self) -> StepBatch:
        """The data of the coming step; on entering a stage, its schedule."""
        number = self.curriculum.state.stage
        if number != self.entered:
            self._enter(number)
        samples = [self.mixture.take(length) for length in self.curriculum.plan(self.step)]
        micro = self.recipe.micro_batch_tokens or self.recipe.tokens_per_step
        self.batch = make_step(samples, micro, self.engine.data_rank, self.engine.data_world)
        return self.batch

    def transform(self, batch: Batch, number: int) -> Batch:
        """This process's part of micro-batch `number` of a step, after all that the recipe does to it."""
        whole = self.parts.transform(
            batch,
            step=self.step,
            rank=self.engine.data_rank,
            number=number,
            target_length=self.rope.reached[self.curriculum.state.stage] or None,
            vocabulary_size=self.vocabulary_size,
        )
        return whole if self.engine.sharing is None else shared_batch(self.engine.sharing, whole)

    def rows(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Where attention is over rows that several processes share, if they do."""
        if self.engine.sharing is None:
            return contextlib.nullcontext()
        return self.engine.sharing.rows(batch["row_documents"])

    def activations(self) -> contextlib.AbstractContextManager[Any]:
        """Where activations live between forward and backward."""
        return self.parts.activations(self.model)

    def objective(self, model: Any, batch: Batch) -> torch.Tensor:
        """The summed loss of a transformed micro-batch."""
        return summed_loss(model, self.parts.model_inputs(batch), target_weight(batch))

    def end_step(self) -> bool:
        """After an optimiser step; True when the run is finished."""
        assert self.step_loss is not None
        assert self.batch is not None
        loss = float(self.step_loss)
        number = self.trained_stage = self.curriculum.state.stage
        self.step = self.trainer.state.global_step
        self.tokens += self.batch.num_tokens
        self.loss_sum += loss
        self.loss_steps += 1
        self.last_loss = loss
        self.curriculum.advance(loss, self.batch.num_tokens)
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        if self.step % self.recipe.log_every == 0 or self.curriculum.finished:
            self._log(number)
        self._evaluate()
        if self.step % self.recipe.checkpoints.every == 0 or self.curriculum.finished:
            self.last_checkpoint = self.save(self)
        return self.curriculum.finished

    def non_finite(self, what: str) -> NonFiniteError:
        """The error of a step whose loss or gradient is no number."""
        names = self.batch.names if self.batch is not None else ()
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        good = self.last_checkpoint.name if self.last_checkpoint is not None else "none yet"
        return NonFiniteError(
            f"step {self.step + 1}: {what}; documents of the batch: {shown}; last good checkpoint: {good}",
            hint="lower the learning rate or leave the documents out, then resume with --resume --allow-changes",
        )

    # What a checkpoint keeps beside the weights.

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(JSON, optimiser tensors, random tensors). Every rank must call: states are gathered."""
        optimizer = self.trainer.optimizer
        tensors = optimizer_tensors(
            getattr(optimizer, "optimizer", optimizer), names_of(self.model), keep=self.engine.is_main
        )
        documents, random_tensors = self._gathered_random()
        scheduler = self.trainer.lr_scheduler.state_dict() | {
            "lr_lambdas": [None] * len(optimizer.param_groups)
        }
        document = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "last_loss": self.last_loss,
            "last_evaluation": self.last_evaluation,
            "trained_stage": self.trained_stage,
            "curriculum": self.curriculum.to_json(),
            "data": self.mixture.state(),
            "scheduler": scheduler,
            "learning_rates": [group["lr"] for group in optimizer.param_groups],
            "random": documents,
        }
        return document, tensors, random_tensors

    def _gathered_random(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        document, tensors = read_random()
        gathered = [(document, tensors)]
        if self.engine.world > 1:
            from accelerate.utils import gather_object

            gathered = gather_object([(document, tensors)])
        documents = {str(rank): item[0] for rank, item in enumerate(gathered)}
        named = {
            f"{rank}/{name}": tensor for rank, item in enumerate(gathered) for name, tensor in item[1].items()
        }
        return documents, named

    def restore_finished(self) -> None:
        """Take up the counters of a run that is already finished: there is nothing left to train."""
        assert self.resume_from is not None
        state = read_training(self.resume_from.path)[2]
        self.curriculum.restore(state["curriculum"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.last_loss, self.last_evaluation = state["last_loss"], state["last_evaluation"]

    def write_config(self, folder: Path) -> None:
        """Write the schedule of the stage just trained into the config.json of a checkpoint."""
        path = folder / "config.json"
        document = self.rope.config_for(json.loads(path.read_text(encoding="utf-8")), self.trained_stage)
        document["use_cache"] = True
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    # Details.

    def _enter(self, number: int) -> None:
        stage = self.curriculum.stages[number]
        schedule = self.rope.enter(self.model, number)
        self.mixture.share(stage.sources)
        self.entered = number
        about = "" if schedule is None else f", {schedule.method} factor {schedule.factor:g}"
        self.progress.say(
            f"stage {number + 1}/{len(self.curriculum.stages)}: samples of {stage.length} tokens{about}"
        )

    def _log(self, number: int) -> None:
        now = time.monotonic()
        mean = self.loss_sum / self.loss_steps
        speed = (
            (self.tokens - self._log_tokens) / max(1e-9, now - self._log_clock) if self._log_tokens else 0.0
        )
        if not self._log_tokens and self.seconds:
            speed = self.tokens / self.seconds
        self._log_clock, self._log_tokens = now, self.tokens
        self.loss_sum, self.loss_steps = 0.0, 0
        length = self.curriculum.stages[number].length
        line = {
            "step": self.step,
            "kind": "train",
            "loss": mean,
            "learning_rate": self.trainer.used_rate,
            "grad_norm": self.trainer.grad_norm,
            "stage": number,
            "length": length,
            "tokens": self.tokens,
            "tokens_per_s": speed,
            "memory_bytes": peak_memory_bytes(),
            "seconds": self.seconds,
        }
        self._write(line)
        if self.recipe.report_to:
            self.trainer.log({key: value for key, value in line.items() if key not in ("step", "kind")})
            self.trainer.state.log_history.clear()
        self.progress.step(
            self.step,
            self.curriculum.max_steps,
            loss=mean,
            stage=f"{number + 1}/{len(self.curriculum.stages)}",
            length=length,
            tokens_per_s=speed,
            final=self.curriculum.finished,
        )

    def _evaluate(self) -> None:
        part = self.recipe.evaluation
        if part is None or not (self.step % part.every == 0 or self.curriculum.finished):
            return
        began = time.monotonic()
        self.model.eval()
        found: dict[str, float] = {}
        for evaluate in self.evaluations:
            found |= evaluate(self.model, self.step) or {}
        self.model.train()
        self.engine.settle(self.model)
        self.last_evaluation = found
        self._write({"step": self.step, "kind": "evaluation", "tokens": self.tokens} | found)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        self.progress.say(f"step {self.step}  evaluation: {shown}")
        if "loss" in found:
            self.curriculum.measured(found["loss"])
        now = time.monotonic()
        self._log_clock += now - began
        self._clock = now

    def _write(self, line: dict[str, Any]) -> None:
        if self.engine.is_main:
            self.metrics.write(line)
