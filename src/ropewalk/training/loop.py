"""The run between two steps: data, stages, metrics, evaluation, checkpoints. One object, one run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import RopewalkError
from ropewalk.files import write_json
from ropewalk.training.data.batches import StepBatch, make_step
from ropewalk.training.data.mixture import Mixture
from ropewalk.training.data.stages import Curriculum, LearningRate
from ropewalk.training.engine import Engine
from ropewalk.training.metrics import Metrics
from ropewalk.training.model.build import Rope
from ropewalk.training.model.optimisers import make_optimizer
from ropewalk.training.objective import Batch, shared_batch, summed_loss, target_weight
from ropewalk.training.parts.parts import Parts
from ropewalk.training.parts.retention import Retention
from ropewalk.training.progress import Progress, peak_memory_bytes
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.saving import Saver, saver_of
from ropewalk.training.settings import RUN
from ropewalk.training.speed import Utilisation
from ropewalk.training.state.checkpoint import Checkpoint
from ropewalk.training.state.identity import read_run
from ropewalk.training.state.random_state import gathered_random, put_own_random
from ropewalk.training.state.served import declared_dtype
from ropewalk.training.state.sharded import read_shards
from ropewalk.training.state.weights import is_sharded, names_of, put_optimizer, read_training
from ropewalk.training.step import Stepped, train_step
from ropewalk.training.stopping import Stopped, Stopping

Evaluate = Callable[[Any, int], dict[str, float] | None]


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


class Loop:
    """Everything of a run that has to survive a kill, and the walk from step to step."""

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
        self.stopping = Stopping()
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
        self.stepped: Stepped | None = None
        self.used: Utilisation | None = None
        last = None if self.resume_from is None else self.resume_from.path
        self.saver: Saver = saver_of(self, last)
        self._clock = self._log_clock = time.monotonic()
        self._log_tokens = 0

    def run(self) -> None:
        """From the beginning, or from the checkpoint, to the end."""
        self._begin()
        with self.stopping.listening():
            while True:
                self.batch = self.next_batch()
                self.stepped = train_step(self, self.batch)
                self.step += 1
                if self.end_step():
                    self.saver.finish()
                    return
                # A signal reaches each process at its own moment: unless all agree, one leaves and the others wait.
                number = self.engine.highest(self.stopping.number)
                if number:
                    self.saver.finish()
                    # Unless the step was saved by its own rhythm: parts count as `last` only once they are published.
                    if self.saver.last != self.saver.target:
                        self.save()
                        self.saver.finish()
                    raise Stopped(number, self.folder)

    def _begin(self) -> None:
        """Wrap the model, make the optimiser, and put back what a checkpoint kept."""
        self.wrapped = self.engine.wrap(self.model)
        self.optimizer = make_optimizer(self.recipe.optimizer, self.model)
        self.engine.check(self.wrapped)
        self.engine.check_rows(self.wrapped, self.vocabulary_size, self.engine.accelerator.device)
        self.engine.start_trackers(self.recipe)
        mixed = self.engine.accelerator.mixed_precision != "no"
        self.used = Utilisation.of(self.model, mixed=mixed, world=self.engine.world)
        if self.resume_from is not None:
            self._restore(self.resume_from.path)
        elif self.engine.rank:
            # Dropout differs between processes, as it does between the rows of one.
            # Seeds are below 2**31, so that no shifted rank gives the seed of another run.
            torch.manual_seed(self.recipe.seed + (self.engine.rank << 32))
        if self.engine.is_main:
            # Only now: everything that was asked for fits together, and what was put back fits the model.
            self._describe()
            # Without a checkpoint the run starts over: even the line of step 0 is written again.
            self.metrics.open(after_step=-1 if self.resume_from is None else self.step)
        self._clock = self._log_clock = time.monotonic()
        if self.step == 0:
            # What every later figure is compared with: the model as it came, under the first stage's schedule.
            self._enter(self.curriculum.state.stage)
            self._evaluate()

    def _describe(self) -> None:
        self.take_up()
        path, kept = self.folder / RUN, ("format", "data")
        before = read_run(self.folder) if path.is_file() else {}
        if any(before.get(name) != self.described[name] for name in kept):
            write_json(path, self.described)

    def next_batch(self) -> StepBatch:
        """The data of the coming step; on entering a stage, its schedule."""
        number = self.curriculum.state.stage
        if number != self.entered:
            self._enter(number)
        lengths = self.curriculum.plan(self.step)
        if self.used is not None:
            self.used.count(lengths)
        # Every process draws all rows of the step and keeps its own, so that the position in the data is one for all.
        samples = [self.mixture.take(length) for length in lengths]
        micro = self.recipe.micro_batch_tokens or self.recipe.tokens_per_step
        return make_step(samples, micro, self.engine.data_rank, self.engine.data_world)

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

    def end_step(self) -> bool:
        """After an optimiser step; True when the run is finished."""
        assert self.stepped is not None
        assert self.batch is not None
        loss = self.stepped.loss
        # Read before `advance`, after which the state may be that of the next stage.
        number = self.trained_stage = self.curriculum.state.stage
        self.tokens += self.batch.num_tokens
        self.loss_sum += loss
        self.loss_steps += 1
        self.documents += len(self.batch.names)
        self.last_loss = loss
        self.curriculum.advance(loss, self.batch.num_tokens)
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        if self.step % self.recipe.log_every == 0 or self.curriculum.finished:
            self._log(number, self.stepped)
        # Before the checkpoint, which must hold what an evaluation decides: it can end a stage, or the run.
        self._evaluate()
        self.saver.poll()
        if self.step % self.recipe.checkpoints.every == 0 or self.curriculum.finished:
            self.save()
        return self.curriculum.finished

    def save(self) -> None:
        """Write the checkpoint of the step that has just ended."""
        self.saver.save()

    def non_finite(self, what: str) -> NonFiniteError:
        """The error of a step whose loss or gradient is no number."""
        names = self.batch.names if self.batch is not None else ()
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        good = self.saver.last.name if self.saver.last is not None else "none yet"
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

    def _restore(self, checkpoint: Path) -> None:
        tensors, random_tensors, state = read_training(checkpoint)
        before, now = state.get("optimizer", self.recipe.optimizer.name), self.recipe.optimizer.name
        if is_sharded(checkpoint):
            read_shards(checkpoint, self.model, self.optimizer)
        elif before == now:
            put_optimizer(self.optimizer, names_of(self.model), tensors)
        else:
            self.progress.warn(f"the state of {before} is of no use to {now}: the optimiser starts anew")
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

    # What is said of a run.

    def _enter(self, number: int) -> None:
        stage = self.curriculum.stages[number]
        schedule = self.rope.enter(self.model, number)
        self.mixture.share(stage.sources)
        self.entered = number
        about = "" if schedule is None else f", {schedule.method} factor {schedule.factor:g}"
        self.progress.say(
            f"stage {number + 1}/{len(self.curriculum.stages)}: samples of {stage.length} tokens{about}"
        )

    def _log(self, number: int, stepped: Stepped) -> None:
        now = time.monotonic()
        mean = self.loss_sum / self.loss_steps
        speed = (
            (self.tokens - self._log_tokens) / max(1e-9, now - self._log_clock) if self._log_tokens else 0.0
        )
        # The first line of a start or a resume has none before it: the mean speed of all the training so far.
        if not self._log_tokens and self.seconds:
            speed = self.tokens / self.seconds
        used = None if self.used is None else self.used.taken(now - self._log_clock)
        self._log_clock, self._log_tokens = now, self.tokens
        documents = self.documents / self.loss_steps
        self.loss_sum, self.loss_steps, self.documents = 0.0, 0, 0
        length = self.curriculum.stages[number].length
        self._write(
            {
                "step": self.step,
                "kind": "train",
                "loss": mean,
                "learning_rate": stepped.learning_rate,
                "grad_norm": stepped.grad_norm,
                "stage": number,
                "length": length,
                "tokens": self.tokens,
                "documents_per_step": documents,
                "tokens_per_s": speed,
                "memory_bytes": peak_memory_bytes(),
                "seconds": self.seconds,
            }
            | ({} if used is None else {"mfu": used})
        )
        self.progress.mfu = used
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
        # The time of an evaluation counts neither as training nor against its speed.
        self._log_clock += now - began
        self._clock = now

    def _write(self, line: dict[str, Any]) -> None:
        if self.engine.is_main:
            self.metrics.write(line)
        self.engine.track(line)
