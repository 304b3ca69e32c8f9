"""transformers' Trainer with steps, losses and checkpoints of our own.

What stays theirs: devices, mixed precision, DDP and FSDP through accelerate, the optimiser step, `report_to`. A step's
data is asked for only when the step before it has ended, so that a stage may end by the loss it reached.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.training.data.batches import StepBatch
from ropewalk.training.data.stages import LearningRate
from ropewalk.training.model.optimisers import make_optimizer
from ropewalk.training.objective import Batch, target_weight
from ropewalk.training.recipe.recipe import Recipe

if TYPE_CHECKING:
    from ropewalk.training.loop import Loop


class NonFiniteError(RopewalkError):
    """A loss or a gradient that is not a number: the run stops, its last checkpoint is good."""


def training_arguments(recipe: Recipe, folder: Path, max_steps: int, device: str) -> TrainingArguments:
    """The part of the recipe that transformers' Trainer carries out; what it would save or log is ours."""
    import transformers

    level = transformers.logging.get_verbosity()
    return TrainingArguments(
        output_dir=str(folder),
        # Stages may end early or, by tokens, a little late: the curriculum says when the run is finished.
        max_steps=2 * max_steps + 1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_grad_norm=recipe.optimizer.clip if recipe.optimizer.clip is not None else math.inf,
        bf16=recipe.precision == "bfloat16",
        use_cpu=device == "cpu",
        seed=recipe.seed,
        report_to=list(recipe.report_to) or "none",
        run_name=recipe.name,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        log_level={10: "debug", 20: "info", 30: "warning", 40: "error"}.get(level, "error"),
    )


def make_trainer(loop: Loop, model: Any, args: TrainingArguments) -> RopewalkTrainer:
    """The trainer; a `report_to` that is unknown or not installed is refused with what it needs."""
    try:
        return RopewalkTrainer(loop, model, args)
    except (RuntimeError, ValueError, ImportError) as error:
        if not loop.recipe.report_to:
            raise
        raise UsageError(
            f"report_to={', '.join(loop.recipe.report_to)} cannot be had ({one_line(error, 200)})",
            hint="install it, or leave report_to empty: metrics.jsonl is always written",
        ) from error


class StepLoader:
    """An iterable of `StepBatch` that makes each one when asked: what Trainer takes for its data loader."""

    def __init__(self, make: Callable[[], StepBatch]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[StepBatch]:
        while True:
            yield self.make()


class LoopCallback(TrainerCallback):
    """Calls the loop when a step has ended, and puts a resumed run back where it stood before the first."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loop.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_training_stop = self.loop.end_step()
        return control


class RopewalkTrainer(Trainer):
    """One optimiser step a batch, whatever the number of micro-batches in it."""

    def __init__(self, loop: Loop, model: Any, args: TrainingArguments) -> None:
        super().__init__(model=model, args=args, callbacks=[LoopCallback(loop)])
        self.remove_callback(PrinterCallback)
        if loop.engine.name == "fsdp2":
            # Trainer leaves such a model as it is, instead of wrapping it in DDP on top.
            self.is_distributed_loading_by_transformers = True
        self.loop = loop
        self.grad_norm = self.used_rate = math.nan

    def get_train_dataloader(self) -> Any:
        return StepLoader(self.loop.next_batch)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(
                self.loop.recipe.optimizer, self.model if model is None else model
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            rate = LearningRate.of(self.loop.recipe.optimizer, self.loop.curriculum.max_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.loop.prepared(prepared[0])
        return prepared

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:
        return [next(epoch_iterator)], None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def training_step(self, model: Any, inputs: StepBatch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of every micro-batch; the loss is the weighted mean over all tokens of all ranks."""
        model.train()
        batches = [
            self.loop.transform(self._placed(batch), number) for number, batch in enumerate(inputs.micro)
        ]
        weight = torch.stack([target_weight(batch) for batch in batches]).sum().to(self.args.device)
        world = self.accelerator.num_processes
        if world > 1:
            weight = self.accelerator.reduce(weight, "sum")
        weight = weight.clamp(min=1e-8)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            sync = contextlib.nullcontext() if last else self.loop.engine.without_sync(model)
            with (
                sync,
                self.compute_loss_context_manager(),
                self.loop.activations(),
                self.loop.rows(batch),
            ):
                loss = self.loop.objective(model, batch) * (world / weight)
                self.accelerator.backward(loss)
            total += loss.detach() / world
        # One look a step, after the sum over all processes: each of them stops, and a GPU waits once.
        total = self.accelerator.reduce(total, "sum") if world > 1 else total
        if not bool(torch.isfinite(total)):
            raise self.loop.non_finite(f"the loss is {total.item()}")
        self.loop.step_loss = total
        return total

    def _placed(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in batch.items()}

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(value):
            raise self.loop.non_finite(f"the gradient's norm is {value}")
        self.grad_norm, self.used_rate = value, self._get_learning_rate()
        return norm
