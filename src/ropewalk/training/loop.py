"""The walk from step to step: data, stages, metrics, evaluation, checkpoints. One object, one run."""

from __future__ import annotations

import time
from typing import Any

import torch

from ropewalk.files import write_json
from ropewalk.training.data.batches import StepBatch, make_step
from ropewalk.training.model.optimisers import make_optimizer
from ropewalk.training.progress import peak_memory_bytes
from ropewalk.training.running import Running, Setup
from ropewalk.training.saving import saver_of
from ropewalk.training.settings import RUN
from ropewalk.training.speed import Utilisation
from ropewalk.training.state.identity import read_run
from ropewalk.training.step import Stepped, train_step
from ropewalk.training.stopping import Stopped, Stopping


class Loop(Running):
    """A run, from the beginning or from its checkpoint to the end."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.stopping = Stopping()
        self.stepped: Stepped | None = None
        self.used: Utilisation | None = None
        self.saver = saver_of(self)
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
                    # Unless the step was saved by its own rhythm: parts count as `saved` only once they are published.
                    if self.saved != self.saver.target:
                        self.saver.save()
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
            self.restore(self.resume_from.path)
        elif self.engine.rank:
            # Dropout differs between processes, as it does between the rows of one.
            # Seeds are below 2**31, so that no shifted rank gives the seed of another run.
            torch.manual_seed(self.recipe.seed + (self.engine.rank << 32))
        if self.engine.is_main:
            # Only now: everything that was asked for fits together, and what was put back fits the model.
            self.take_up()
            path, kept = self.folder / RUN, ("format", "data")
            before = read_run(self.folder) if path.is_file() else {}
            if any(before.get(name) != self.described[name] for name in kept):
                write_json(path, self.described)
            # Without a checkpoint the run starts over: even the line of step 0 is written again.
            self.metrics.open(after_step=-1 if self.resume_from is None else self.step)
        self._clock = self._log_clock = time.monotonic()
        if self.step == 0:
            # What every later figure is compared with: the model as it came, under the first stage's schedule.
            self._enter(self.curriculum.state.stage)
            self._evaluate()

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
        logged = self.step % self.recipe.log_every == 0 or self.curriculum.finished
        if logged:
            self._log(number, self.stepped)
        # Before the checkpoint, which must hold what an evaluation decides: it can end a stage, or the run.
        self._evaluate()
        if self.curriculum.finished and not logged:
            self._log(number, self.stepped)
        self.saver.poll()
        if self.step % self.recipe.checkpoints.every == 0 or self.curriculum.finished:
            self.saver.save()
        return self.curriculum.finished

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
