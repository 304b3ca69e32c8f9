"""One optimiser step, from token ids to updated weights: everything that happens to a number on its way.

The loss is the weighted mean over all predicted tokens of the step, whatever the micro-batches and processes: every
micro-batch gives the SUM of its tokens' losses, divided by the weight of the whole step, and gradients add up. The
forward computes in the recipe's precision by itself (`engine.wrap`), the backward in that of each operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ropewalk.training.data.batches import StepBatch
from ropewalk.training.objective import target_weight
from ropewalk.training.running import Running


@dataclass(frozen=True)
class Stepped:
    """What a step tells: its loss, the gradient's norm before clipping, and the learning rate it took."""

    loss: float
    grad_norm: float
    learning_rate: float


def train_step(loop: Running, step: StepBatch) -> Stepped:
    """Forward and backward of every micro-batch, then one update. Nothing is updated where a number is not finite."""
    engine, optimizer = loop.engine, loop.optimizer
    accelerator = engine.accelerator
    loop.wrapped.train()
    # All are transformed before the first forward: each loss is divided by the weight of the whole step.
    batches = [loop.transform(engine.placed(batch), number) for number, batch in enumerate(step.micro)]
    # The clamp gives a step whose tokens are all masked a loss of 0, where 0 / 0 would stop the run.
    weight = engine.total(torch.stack([target_weight(batch) for batch in batches]).sum()).clamp(min=1e-8)
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches):
        with (
            engine.gradient_sync(loop.wrapped, last=number == len(batches) - 1),
            loop.parts.activations(loop.model),
            loop.rows(batch),
        ):
            # Processes average their gradients, so each one's share is multiplied by how many they are.
            loss = loop.objective(loop.wrapped, batch) * (engine.world / weight)
            accelerator.backward(loss)
        # The factor for the averaging is taken out again: what is reported is summed over processes, not averaged.
        total += loss.detach() / engine.world
    # One look a step, after the sum over all processes: each of them stops, and a GPU waits once.
    total = engine.total(total)
    taken = loop.parts.taken_weight()
    if taken is not None:
        # The losses themselves decided the weights: only now it is known what they sum to.
        scale = weight / engine.total(taken).clamp(min=1e-8)
        total = total * scale
        for parameter in loop.wrapped.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(float(scale))
    if not bool(torch.isfinite(total)):
        raise loop.non_finite(f"the loss is {total.item()}")
    clip = loop.recipe.optimizer.clip
    # An infinite bound clips nothing and still gives the norm, which the check below and the log want.
    norm = accelerator.clip_grad_norm_(loop.wrapped.parameters(), math.inf if clip is None else clip)
    # Under fsdp2 the norm is a DTensor of parts: every rank calls, and has the same number afterwards.
    grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if not math.isfinite(grad_norm):
        raise loop.non_finite(f"the gradient's norm is {grad_norm}")
    # A function of the step alone: a resumed run, and one whose recipe was changed on purpose, need no state for it.
    rate = loop.recipe.optimizer.learning_rate * loop.rate(loop.step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Stepped(float(total), grad_norm, rate)
