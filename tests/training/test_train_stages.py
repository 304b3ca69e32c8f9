"""The length scheduler, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from ropewalk.errors import UsageError
from ropewalk.training.data.stages import Curriculum, LearningRate
from ropewalk.training.recipe.recipe import Recipe


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
