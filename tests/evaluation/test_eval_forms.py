"""Tasks that count by choice: decided once, by the first reader at the shortest length, for every reader after it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from retrieval_models import ByteTokenizer, CopyModel

from ropewalk.evaluation.retrieval.forms import Forms
from ropewalk.evaluation.retrieval.run import Asking, Plan, plan_tasks, run_plan
from ropewalk.evaluation.retrieval.scores import SampleScore

TOKENIZER = ByteTokenizer()
LENGTHS = [450, 600]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_tasks(TOKENIZER, Asking(tasks=["passkey", "needle"], lengths=LENGTHS, depths=2, samples=4))


def answered(plan: Plan, credit: dict[tuple[str, str], float], asked: list[Any]) -> list[SampleScore]:
    """Every sample with the credit of its (task, scoring); what was asked is noted."""
    lengths = sorted({sample.length for group in plan.groups for sample in group})
    asked.append((tuple(plan.tasks), plan.scoring, lengths))
    return [
        SampleScore(
            sample.task,
            sample.length,
            sample.depth,
            sample.index,
            sample.query,
            plan.scoring,
            sample.template,
            credit[sample.task, plan.scoring],
            0.125 if plan.scoring == "forced-choice" else 0.0,
        )
        for group in plan.groups
        for sample in group
    ]


def test_a_task_that_is_never_written_but_picked_counts_by_choice(plan: Plan) -> None:
    forms, asked = Forms(plan, open_to_choice=True), list[Any]()
    credit = {("passkey", "teacher-forced"): 1.0, ("needle", "teacher-forced"): 0.0} | {
        ("needle", "forced-choice"): 0.75
    }
    had = forms.decide(lambda part: answered(part, credit, asked))
    # Choice is tried of the needle alone, at the shortest length alone.
    both = ("passkey", "needle")
    assert asked == [(both, "teacher-forced", LENGTHS), (("needle",), "forced-choice", [450])]
    assert len(had) == 2 * 2 * 2 * 4 + 2 * 4
    assert not forms.undecided
    assert forms.chosen == ["needle"]
    said = [(tuple(part.tasks), part.scoring) for part in forms.plans]
    assert said == [(("passkey",), "teacher-forced"), (("needle",), "forced-choice")]
    assert forms.remarks == [
        "needle counts by choice: at 450 tokens 0% of the answers are written out, but in 75% the right one is the "
        "likeliest of those on offer (chance 12%)"
    ]


def test_a_task_that_is_not_picked_either_stays_as_it_is(plan: Plan) -> None:
    forms = Forms(plan, open_to_choice=True)
    credit = {(task, "teacher-forced"): 0.0 for task in ("passkey", "needle")}
    credit |= {("passkey", "forced-choice"): 0.25, ("needle", "forced-choice"): 0.125}
    forms.decide(lambda part: answered(part, credit, []))
    assert forms.chosen == []
    assert forms.remarks == []
    assert forms.plans == [plan]


def test_a_named_scoring_is_never_changed(plan: Plan) -> None:
    assert not Forms(plan, open_to_choice=False).undecided
    generated = dataclasses.replace(plan, scoring="generation")
    assert not Forms(generated, open_to_choice=True).undecided


class Stubborn(CopyModel):
    """Copies as its parent does, but one word that is never an answer is always likelier than any other."""

    def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        found = super().forward(*args, **kwargs)
        found.logits[..., 1] = found.logits.max() + 5
        return found


def test_a_model_that_writes_nothing_is_asked_by_choice_and_solves_it() -> None:
    torch.manual_seed(0)
    short = plan_tasks(TOKENIZER, Asking(tasks=["passkey"], lengths=[250, 300], depths=1, samples=3))
    forms, model = Forms(short, open_to_choice=True), Stubborn()
    forms.decide(lambda part: run_plan(model, TOKENIZER, part))
    assert forms.chosen == ["passkey"]
    [part] = forms.plans
    scores = run_plan(model, TOKENIZER, part)
    assert len(scores) == 2 * 3
    assert {score.credit for score in scores} == {1.0}
    assert {score.chance for score in scores} == {0.125}
