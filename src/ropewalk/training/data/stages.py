"""The length scheduler: which lengths each optimiser step trains, when a stage ends, and the learning rate.

Plain arithmetic on counters. The state is a small dictionary, so a resumed run takes exactly the decisions of an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.training.recipe.recipe import OptimizerPart, Recipe
from ropewalk.training.recipe.stages import Stage


@dataclass
class StageState:
    """Where a run stands in its curriculum. `served` counts the tokens of each length in this stage."""

    stage: int = 0
    step: int = 0
    tokens: int = 0
    served: dict[str, int] = field(default_factory=dict)
    window_loss: float = 0.0
    window_steps: int = 0
    good: int = 0
    bad: int = 0
    best: float | None = None


class Curriculum:
    """The stages of a recipe, walked step by step."""

    def __init__(self, recipe: Recipe, tokens_per_epoch: Callable[[], int]) -> None:
        self.stages = recipe.stages
        self.tokens_per_step = recipe.tokens_per_step
        self.seed = recipe.seed
        self.goals = [self._goal(number, stage, tokens_per_epoch) for number, stage in enumerate(self.stages)]
        self.steps = [self._steps(stage, goal) for stage, goal in zip(self.stages, self.goals, strict=True)]
        self.state = StageState()
        self.finished = False

    @staticmethod
    def _goal(number: int, stage: Stage, tokens_per_epoch: Callable[[], int]) -> float | None:
        if stage.epochs is None:
            return stage.tokens
        epoch = tokens_per_epoch()
        if not epoch:
            raise UsageError(
                f"stages.{number}: epochs has no meaning where every source is generated",
                hint="use steps or tokens",
            )
        return stage.epochs * epoch

    def _steps(self, stage: Stage, goal: float | None) -> int:
        if stage.steps is not None:
            return stage.steps
        if stage.until is not None:
            return stage.until.at_most_steps
        assert goal is not None
        filled = self.tokens_per_step
        if not stage.mix and stage.grow is None:
            # Whole samples only: what a step has room for beyond them stays empty.
            filled -= self.tokens_per_step % stage.length
        return max(1, math.ceil(goal / filled))

    @property
    def max_steps(self) -> int:
        """Steps of the whole run: a stage that ends by quality counts at its bound, one by tokens as expected."""
        return sum(self.steps)

    @property
    def stage(self) -> Stage:
        """The stage of the coming step."""
        return self.stages[self.state.stage]

    @property
    def length(self) -> int:
        """The stage's own sample length at the coming step: constant, or growing."""
        stage = self.stage
        if stage.grow is None:
            return stage.length
        grow, steps = stage.grow, self.steps[self.state.stage]
        # The last step of the stage has the full length.
        share = self.state.step / (steps - 1) if steps > 1 else 1.0
        if grow.shape == "linear":
            length = grow.from_length + share * (stage.length - grow.from_length)
        else:
            length = grow.from_length * (stage.length / grow.from_length) ** share
        rounded = round(length / grow.multiple_of) * grow.multiple_of
        return int(min(stage.length, max(grow.from_length, rounded)))

    def plan(self, step: int) -> list[int]:
        """The lengths of the samples of the coming step; they sum to at most `tokens_per_step`.

        By share: the next sample has the length that is furthest behind its share of the stage's tokens, or the next
        furthest that still fits. By probability: each sample's length is drawn with its share as its probability.
        """
        stage, own = self.stage, self.length
        lengths = [own, *stage.mix]
        shares = [1 - sum(stage.mix.values()), *stage.mix.values()]
        served = dict(self.state.served)
        rng = np.random.default_rng([self.seed, 2, step]) if stage.mix_by == "probability" else None
        room, planned = self.tokens_per_step, []
        while True:
            fitting = [
                number for number, length in enumerate(lengths) if length <= room and shares[number] > 0
            ]
            if not fitting:
                break
            chosen = self._choose(fitting, shares, served, rng)
            planned.append(lengths[chosen])
            served[str(chosen)] = served.get(str(chosen), 0) + lengths[chosen]
            room -= lengths[chosen]
        self.state.served = served
        return sorted(planned, reverse=True)

    @staticmethod
    def _choose(
        fitting: list[int], shares: list[float], served: dict[str, int], rng: np.random.Generator | None
    ) -> int:
        weights = np.array([shares[number] for number in fitting])
        if rng is not None:
            return fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))]
        # One more than was served, so that the very first sample goes to the largest share.
        total = sum(served.values()) + 1
        behind = [shares[number] * total - served.get(str(number), 0) for number in fitting]
        return fitting[int(np.argmax(behind))]

    def advance(self, loss: float, tokens: int) -> bool:
        """Count a finished step; True when the next step belongs to another stage, or the run is finished."""
        state, stage = self.state, self.stage
        state.step += 1
        state.tokens += tokens
        goal = self.goals[state.stage]
        # A growing stage ends by its steps, on which its length depends: by tokens it might end before its full length.
        if goal is None or stage.grow is not None:
            done = state.step >= self.steps[state.stage]
        else:
            done = state.tokens >= goal
        if stage.until is not None and stage.until.measure == "training":
            state.window_loss += loss
            state.window_steps += 1
            if state.window_steps == stage.until.every:
                mean = state.window_loss / state.window_steps
                state.window_loss, state.window_steps = 0.0, 0
                done = self._good_enough(mean) or done
        return self._leave() if done else False

    def measured(self, loss: float) -> bool:
        """Count an evaluation's loss, where the stage listens to it; True when the stage ended."""
        until = None if self.finished else self.stage.until
        # What is measured before a stage's first step is the doing of the stage before.
        if until is None or until.measure != "evaluation" or self.state.step == 0:
            return False
        return self._leave() if self._good_enough(loss) else False

    def _good_enough(self, loss: float) -> bool:
        until, state = self.stage.until, self.state
        assert until is not None
        if until.loss_below is not None:
            state.good = state.good + 1 if loss < until.loss_below else 0
            if state.good >= until.times:
                return True
        if until.plateau is not None:
            if state.best is None or loss < state.best - until.min_delta:
                state.best, state.bad = loss, 0
            else:
                state.bad += 1
            return state.bad >= until.plateau
        return False

    def _leave(self) -> bool:
        if self.state.stage + 1 == len(self.stages):
            self.finished = True
        else:
            self.state = StageState(stage=self.state.stage + 1)
        return True

    def to_json(self) -> dict[str, Any]:
        """The state."""
        return asdict(self.state) | {"finished": self.finished}

    def restore(self, document: dict[str, Any]) -> None:
        """Take up a state that `to_json` gave."""
        values = dict(document)
        self.finished = bool(values.pop("finished"))
        self.state = StageState(**values)


@dataclass(frozen=True)
class LearningRate:
    """The factor on the learning rate at a step: a linear warm-up, then cosine, linear or no decay to `final_share`."""

    warmup_steps: int
    max_steps: int
    decay: str
    final_share: float

    @classmethod
    def of(cls, part: OptimizerPart, max_steps: int) -> LearningRate:
        """From a recipe's optimiser."""
        return cls(min(part.warmup_steps, max_steps), max_steps, part.decay, part.final_share)

    def __call__(self, step: int) -> float:
        """Factor for optimiser step `step`, counted from 0."""
        if step < self.warmup_steps:
            # Not from 0, at which the first step would train nothing.
            return (step + 1) / (self.warmup_steps + 1)
        if self.decay == "constant":
            return 1.0
        # A stage that ends by tokens may take more steps than were expected: they stay at the final share.
        share = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        fall = (1 + math.cos(math.pi * share)) / 2 if self.decay == "cosine" else 1 - share
        return self.final_share + (1 - self.final_share) * fall
