"""The length scheduler, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from ropewalk.errors import UsageError
from ropewalk.training.data.stages import Curriculum, LearningRate
from ropewalk.training.recipe.recipe import OptimizerPart, Recipe


def curriculum(
    stages: list[dict[str, Any]], *, tokens_per_step: int = 4096, epoch: int = 0, **more: Any
) -> Curriculum:
    recipe = Recipe.model_validate(
        {
            "model": {"path": "hemp"},
            "data": {"sources": [{"name": "a", "kind": "corpus"}]},
            "stages": stages,
            "tokens_per_step": tokens_per_step,
        }
        | more
    )
    return Curriculum(recipe, lambda: epoch)


def walk(
    walked: Curriculum, losses: list[float] | None = None, most: int = 500
) -> list[tuple[int, list[int]]]:
    """(stage, lengths) of every step until the run is finished."""
    steps: list[tuple[int, list[int]]] = []
    while not walked.finished:
        assert len(steps) < most
        number = walked.state.stage
        lengths = walked.plan(len(steps))
        walked.advance(losses[len(steps)] if losses else 1.0, sum(lengths))
        steps.append((number, lengths))
    return steps


def test_tokens_per_step_stay_constant_while_length_grows() -> None:
    steps = walk(
        curriculum([{"length": 512, "steps": 2}, {"length": 1024, "steps": 2}, {"length": 4096, "steps": 1}])
    )
    assert [sum(lengths) for _, lengths in steps] == [4096] * 5
    assert [(number, len(lengths)) for number, lengths in steps] == [(0, 8), (0, 8), (1, 4), (1, 4), (2, 1)]


def test_tokens_and_epochs_end_a_stage() -> None:
    steps = walk(
        curriculum([{"length": 1024, "tokens": 10000}, {"length": 4096, "epochs": 0.5}], epoch=40000)
    )
    assert sum(number == 0 for number, _ in steps) == 3
    assert sum(number == 1 for number, _ in steps) == 5


def test_tokens_count_what_was_trained_when_rows_do_not_fill_the_step() -> None:
    walked = curriculum([{"length": 3000, "tokens": 12000}])
    assert walked.max_steps == 4
    assert [lengths for _, lengths in walk(walked)] == [[3000]] * 4


def test_epochs_need_text() -> None:
    with pytest.raises(UsageError, match="generated"):
        curriculum([{"length": 1024, "epochs": 1}], epoch=0)


def test_loss_below_must_hold_in_a_row() -> None:
    until = {"every": 2, "loss_below": 2.0, "times": 2, "at_most_steps": 50}
    losses = [3, 3, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1]
    steps = walk(
        curriculum([{"length": 512, "until": until}, {"length": 1024, "steps": 1}]),
        [float(x) for x in losses],
    )
    assert sum(number == 0 for number, _ in steps) == 10


def test_plateau_counts_measurements_without_progress() -> None:
    until = {"every": 1, "plateau": 2, "min_delta": 0.1, "at_most_steps": 50}
    losses = [3.0, 2.5, 2.45, 2.0, 1.95, 1.95, 1.0]
    assert len(walk(curriculum([{"length": 512, "until": until}]), losses)) == 6


def test_quality_is_bounded() -> None:
    until = {"every": 1, "loss_below": 0.1, "at_most_steps": 7}
    assert len(walk(curriculum([{"length": 512, "until": until}]))) == 7


def test_evaluation_ends_a_stage() -> None:
    until = {"loss_below": 2.0, "at_most_steps": 50, "measure": "evaluation"}
    walked = curriculum(
        [{"length": 512, "until": until}, {"length": 1024, "steps": 1}],
        evaluation={"every": 5, "lengths": [512]},
    )
    walked.plan(0)
    walked.advance(1.0, 4096)
    assert not walked.measured(2.5)
    assert walked.measured(1.5)
    assert walked.state.stage == 1
    assert not walked.measured(0.1), "a stage that counts steps does not listen to losses"


@pytest.mark.parametrize("shape", ["linear", "exponential"])
def test_continuous_growth_is_monotone_and_ends_at_the_length(shape: str) -> None:
    stage = {"length": 4096, "steps": 30, "grow": {"from": 256, "shape": shape, "multiple_of": 64}}
    lengths = [step[0] for _, step in walk(curriculum([stage]))]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (256, 4096)
    assert all(length % 64 == 0 for length in lengths)
    middle = {"linear": 2176, "exponential": 1024}[shape]
    assert abs(lengths[15] - middle) < 0.1 * middle


def test_shares_of_lengths_are_kept_over_steps() -> None:
    stage = {"length": 4096, "steps": 40, "mix": {512: 0.25, 1024: 0.25}}
    served: dict[int, int] = {}
    for _, lengths in walk(curriculum([stage])):
        assert sum(lengths) <= 4096
        for length in lengths:
            served[length] = served.get(length, 0) + length
    total = sum(served.values())
    assert served[4096] / total == pytest.approx(0.5, abs=0.05)
    assert served[512] / total == pytest.approx(0.25, abs=0.05)


def test_lengths_by_probability_depend_on_the_step_alone() -> None:
    stage = {"length": 1024, "steps": 40, "mix": {512: 0.5}, "mix_by": "probability"}
    first, second = walk(curriculum([stage])), walk(curriculum([stage]))
    assert first == second
    drawn = [length for _, lengths in first for length in lengths]
    assert 0.2 < sum(length == 512 for length in drawn) / len(drawn) < 0.8
    assert walk(curriculum([stage], seed=1)) != first


def test_state_survives_a_round_trip_at_every_step() -> None:
    stages = [
        {"length": 512, "until": {"every": 3, "plateau": 2, "at_most_steps": 20}, "mix": {1024: 0.3}},
        {"length": 2048, "tokens": 20000, "mix": {512: 0.5}},
    ]
    losses = [3.0, 2.9, 2.8, 2.0, 2.0, 2.0, *[2.5] * 50]
    whole = walk(curriculum(stages), losses)
    walked = curriculum(stages)
    for step, expected in enumerate(whole):
        fresh = curriculum(stages)
        fresh.restore(walked.to_json())
        assert (fresh.state.stage, fresh.plan(step)) == expected
        fresh.advance(losses[step], sum(expected[1]))
        walked = fresh
    assert walked.finished


def test_learning_rate_warms_up_and_falls() -> None:
    rate = LearningRate(warmup_steps=4, max_steps=20, decay="cosine", final_share=0.1)
    values = [rate(step) for step in range(21)]
    assert values[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[4] == 1.0
    assert values[4:] == sorted(values[4:], reverse=True)
    assert values[20] == pytest.approx(0.1)
    assert rate(10**6) == pytest.approx(0.1)
    assert LearningRate(0, 10, "constant", 0.1)(9) == 1.0
    assert LearningRate(0, 10, "linear", 0.0)(5) == 0.5


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [("linear", [256, 1280, 2048, 3072, 4096]), ("exponential", [256, 512, 1024, 2048, 4096])],
)
def test_growth_by_hand(shape: str, lengths: list[int]) -> None:
    """Linear: 256, 1216, 2176 (8.5 of 256, to the even 8), 3136, 4096; exponential: by 2 a step."""
    stage = {"length": 4096, "steps": 5, "grow": {"from": 256, "shape": shape, "multiple_of": 256}}
    assert [max(planned) for _, planned in walk(curriculum([stage], tokens_per_step=8192))] == lengths


def test_growth_stays_between_its_ends() -> None:
    """Neither end is a multiple of 256: 300 is not rounded down below itself, 1,000 not up."""
    stage = {"length": 1000, "steps": 2, "grow": {"from": 300, "multiple_of": 256}}
    assert [max(planned) for _, planned in walk(curriculum([stage]))] == [300, 1000]
    alone = {"length": 1000, "steps": 1, "grow": {"from": 300, "multiple_of": 256}}
    assert [max(planned) for _, planned in walk(curriculum([alone]))] == [1000]


def test_shares_by_hand() -> None:
    """The first to the largest share; then 512 (first of equals), then what is behind and fits, then the rest."""
    stage = {"length": 2048, "steps": 3, "mix": {512: 0.25, 1024: 0.25}}
    walked = curriculum([stage])
    assert walked.plan(0) == [2048, 1024, 512, 512]
    assert walked.state.served == {"0": 2048, "1": 1024, "2": 1024}
    walked.advance(1.0, 4096)
    assert walked.plan(1) == [2048, 1024, 512, 512]
    # A share of nothing is never drawn, whatever room there is.
    none = curriculum([{"length": 2048, "steps": 1, "mix": {512: 1.0}}])
    assert none.plan(0) == [512] * 8


def test_lengths_drawn_by_probability_are_those_of_the_rule() -> None:
    import numpy as np

    stage = {"length": 2048, "steps": 6, "mix": {512: 0.2, 1024: 0.3}, "mix_by": "probability"}
    walked = curriculum([stage], seed=7, tokens_per_step=5000)
    for step in range(6):
        rng = np.random.default_rng([7, 2, step])
        room, wanted = 5000, []
        while fitting := [(n, p) for n, p in ((2048, 0.5), (512, 0.2), (1024, 0.3)) if n <= room]:
            total = sum(p for _, p in fitting)
            length = fitting[int(rng.choice(len(fitting), p=[p / total for _, p in fitting]))][0]
            wanted.append(length)
            room -= length
        assert walked.plan(step) == sorted(wanted, reverse=True)
        walked.advance(1.0, 4096)


@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        ({"length": 3000, "tokens": 12000}, 4),
        # A step of 4,096 holds one row of 3,000 and one of 1,000: nothing is known to stay empty.
        ({"length": 3000, "tokens": 12000, "mix": {1000: 0.2}}, 3),
        ({"length": 3000, "tokens": 12000, "grow": {"from": 1000}}, 3),
        ({"length": 4096, "tokens": 10}, 1),
        ({"length": 4096, "epochs": 0.5}, 5),
        ({"length": 4096, "until": {"loss_below": 1.0, "at_most_steps": 9}}, 9),
        ({"length": 4096, "steps": 6}, 6),
    ],
    ids=str,
)
def test_steps_of_a_stage_are_known_beforehand(stage: dict[str, Any], steps: int) -> None:
    assert curriculum([stage], epoch=40000).max_steps == steps
    assert curriculum([stage, {"length": 512, "steps": 7}], epoch=40000).max_steps == steps + 7


def test_a_growing_stage_ends_by_its_steps_and_another_by_its_tokens() -> None:
    growing = curriculum([{"length": 4096, "tokens": 8192, "grow": {"from": 64}}, {"length": 64, "steps": 1}])
    assert [growing.advance(1.0, 100) for _ in range(2)] == [False, True]
    fixed = curriculum([{"length": 4096, "tokens": 8192}, {"length": 64, "steps": 1}])
    assert [fixed.advance(1.0, tokens) for tokens in (4096, 4095, 1)] == [False, False, True]
    assert (fixed.state.stage, fixed.state.step, fixed.state.tokens) == (1, 0, 0)
    assert fixed.advance(1.0, 64)
    assert fixed.finished


def test_quality_by_hand() -> None:
    """A mean of exactly the bound is not below it, and a gain of exactly min_delta is none."""
    below = curriculum(
        [{"length": 512, "until": {"every": 2, "loss_below": 2.0, "times": 2, "at_most_steps": 50}}]
    )
    losses = [1.0, 3.0, 1.0, 2.5, 3.0, 3.0, 1.0, 2.5, 1.0, 2.5]
    assert [below.advance(loss, 512) for loss in losses] == [False] * 9 + [True]
    flat = curriculum(
        [{"length": 512, "until": {"every": 1, "plateau": 2, "min_delta": 0.5, "at_most_steps": 50}}]
    )
    assert [flat.advance(loss, 512) for loss in (3.0, 2.5, 2.25, 2.5, 2.0)] == [
        False,
        False,
        False,
        False,
        True,
    ]
    # Either is enough where both are asked for.
    both = {"every": 1, "loss_below": 2.0, "times": 1, "plateau": 2, "min_delta": 0.1, "at_most_steps": 50}
    assert [curriculum([{"length": 512, "until": both}]).advance(loss, 512) for loss in (1.9, 2.0)] == [
        True,
        False,
    ]
    slow = curriculum([{"length": 512, "until": both}])
    assert [slow.advance(3.0, 512) for _ in range(3)] == [False, False, True]


def test_evaluations_count_only_where_they_are_listened_to() -> None:
    listening = {"loss_below": 2.0, "at_most_steps": 50, "measure": "evaluation"}
    evaluation = {"every": 5, "lengths": [512]}
    walked = curriculum([{"length": 512, "until": listening}], evaluation=evaluation)
    assert not walked.measured(0.1), "before the first step"
    assert not walked.advance(0.1, 4096), "a training loss is not listened to"
    assert walked.measured(0.1)
    assert walked.finished
    assert not walked.measured(0.1), "a finished run has no stage"
    other = curriculum([{"length": 512, "until": {"loss_below": 2.0, "at_most_steps": 50, "every": 2}}])
    other.advance(3.0, 4096)
    assert not other.measured(0.1)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_rate_by_its_formula(decay: str) -> None:
    import math

    rate = LearningRate.of(
        Recipe.model_validate(
            {
                "model": {"path": "hemp"},
                "data": {"sources": [{"name": "a", "kind": "corpus"}]},
                "stages": [{"length": 512, "steps": 11}],
                "tokens_per_step": 512,
                "optimizer": {"warmup_steps": 3, "decay": decay, "final_share": 0.2},
            }
        ).optimizer,
        11,
    )
    fall = {"cosine": lambda x: 0.5 + 0.5 * math.cos(math.pi * x), "linear": lambda x: 1 - x}[decay]
    wanted = [1 / 4, 2 / 4, 3 / 4, *(0.2 + 0.8 * fall(done / 8) for done in range(9)), 0.2, 0.2]
    assert [rate(step) for step in range(14)] == pytest.approx(wanted)
    short = LearningRate.of(OptimizerPart(warmup_steps=9), 4)
    assert [short(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_a_stage_begins_with_nothing_counted() -> None:
    """Twice below the bound means twice, three steps make a mean, and the next stage begins anew."""
    until = {"every": 3, "loss_below": 2.0, "times": 2, "at_most_steps": 50}
    walked = curriculum([{"length": 512, "until": until}] * 2)
    # Means of 1.9, then 2.0 (not below), then 1.9 twice.
    losses = [1.9, 1.8, 2.0, 2.0, 1.5, 2.5, 1.9, 1.9, 1.9, 0.1, 2.5, 3.1]
    assert [walked.advance(loss, 512) for loss in losses] == [False] * 11 + [True]
    assert walked.to_json() == {
        "stage": 1, "step": 0, "tokens": 0, "served": {}, "window_loss": 0.0, "window_steps": 0, "good": 0, "bad": 0,
        "best": None, "finished": False,
    }  # fmt: skip
    assert [walked.advance(loss, 512) for loss in (1.0, 2.0, 2.9, 1.0, 2.0)] == [False] * 5
    state = walked.to_json()
    assert (state["window_loss"], state["window_steps"], state["good"], state["step"], state["tokens"]) == (
        3.0, 2, 1, 5, 2560,
    )  # fmt: skip
    assert walked.advance(2.9, 512)
    assert walked.finished
    flat = curriculum([{"length": 512, "until": {"every": 1, "plateau": 1, "at_most_steps": 9}}])
    # The first measurement is the best so far; an equal one is no progress.
    assert [flat.advance(loss, 512) for loss in (9.0, 8.5, 8.5)] == [False, False, True]
    bound = curriculum([{"length": 512, "until": {"every": 2, "loss_below": 0.1, "at_most_steps": 3}}])
    assert [bound.advance(1.0, 512) for _ in range(3)] == [False, False, True]


def test_a_run_as_long_as_its_warm_up_and_one_step_more() -> None:
    rate = LearningRate(4, 4, "linear", 0.2)
    assert [rate(step) for step in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.2, 0.2])
    longer = LearningRate(4, 6, "linear", 0.2)
    assert [longer(step) for step in (4, 5, 6, 7)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    none = LearningRate(0, 2, "cosine", 0.0)
    assert [none(step) for step in range(4)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    kept = LearningRate(2, 4, "constant", 0.5)
    assert [kept(step) for step in range(6)] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0])


def test_epochs_are_counted_only_where_a_stage_asks_for_them() -> None:
    asked: list[int] = []

    def epoch() -> int:
        asked.append(1)
        return 5000

    made = Curriculum(
        Recipe.model_validate({
            "model": {"path": "hemp"}, "data": {"sources": [{"name": "a", "kind": "corpus"}]}, "tokens_per_step": 4096,
            "stages": [{"length": 512, "steps": 1}, {"length": 512, "epochs": 1.5}, {"length": 512, "tokens": 99}],
        }), epoch,
    )  # fmt: skip
    assert (made.goals, made.steps, len(asked)) == ([None, 7500.0, 99], [1, 2, 1], 1)
    with pytest.raises(UsageError, match=r"stages\.1: epochs has no meaning"):
        curriculum([{"length": 512, "steps": 1}, {"length": 512, "epochs": 1}], epoch=0)


@pytest.mark.parametrize("mix", [{500: 0.5}, {700: 0.1, 300: 0.3}, {1500: 0.5, 100: 0.1}])
def test_plans_by_a_walk(mix: dict[int, float]) -> None:
    """The next is what is furthest behind its share of one token more than was served, while it fits into the step."""
    length = 1000
    walked = curriculum([{"length": length, "steps": 9, "mix": mix}], tokens_per_step=3000)
    shares = {length: 1 - sum(mix.values()), **mix}
    served = dict.fromkeys(shares, 0)
    for step in range(9):
        room, wanted = 3000, []
        while any(one <= room for one in shares):
            total = sum(served.values()) + 1
            fitting = [one for one in shares if one <= room]
            chosen = max(fitting, key=lambda one: shares[one] * total - served[one])
            wanted.append(chosen)
            served[chosen] += chosen
            room -= chosen
        assert walked.plan(step) == sorted(wanted, reverse=True)
        walked.advance(1.0, sum(wanted))
