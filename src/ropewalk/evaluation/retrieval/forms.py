"""The form in which a task counts: answers that are written, or the right one picked among those on offer.

A small base model may tell which of eight builders was the right one and still not write the name letter for letter:
its score would be a flat zero at every length. So where the first reader of a run writes no answers at the shortest
length, the same questions are asked there by choice; where that is surely above chance, the task counts by choice, for
every reader and length of the run. Nothing is asked twice of the others.
"""

from __future__ import annotations

from collections.abc import Callable

from ropewalk.evaluation.retrieval.run import Plan
from ropewalk.evaluation.retrieval.scores import SampleScore, tasks_at_chance
from ropewalk.units import format_length

Ask = Callable[[Plan], list[SampleScore]]


class Forms:
    """The questions of a run, each task in its form. Until `decide` has been called all answers are written."""

    def __init__(self, plan: Plan, *, open_to_choice: bool) -> None:
        self.written = plan
        self.undecided = open_to_choice and plan.scoring == "teacher-forced"
        self.chosen: list[str] = []
        self.remarks: list[str] = []

    @property
    def plans(self) -> list[Plan]:
        """What a reader is asked: the written answers, and the tasks that count by choice."""
        if not self.chosen:
            return [self.written]
        rest = [task for task in self.written.tasks if task not in self.chosen]
        parts = [self.written.only(rest), self.written.only(self.chosen, scoring="forced-choice")]
        return [part for part in parts if part.groups]

    def decide(self, ask: Ask) -> list[SampleScore]:
        """Ask the first reader, and return every score that this took; called once."""
        self.undecided = False
        written = ask(self.written)
        # At the shortest length, where a model that can write answers at all writes them.
        short = min(score.length for score in written)
        unable = tasks_at_chance(written, short)
        tried = self.written.only(unable, scoring="forced-choice", length=short)
        if not tried.groups:
            return written
        picked = ask(tried)
        still = tasks_at_chance(picked, short)
        self.chosen = [task for task in tried.tasks if task not in still]
        self.remarks = [_remark(task, short, written, picked) for task in self.chosen]
        return [*written, *picked]


def _remark(task: str, short: int, written: list[SampleScore], picked: list[SampleScore]) -> str:
    by_hand = [score.credit for score in written if score.task == task and score.length == short]
    rows = [score for score in picked if score.task == task]
    likeliest, chance = _mean([score.credit for score in rows]), _mean([score.chance for score in rows])
    return (
        f"{task} counts by choice: at {format_length(short)} tokens {_mean(by_hand):.0%} of the answers are written "
        f"out, but in {likeliest:.0%} the right one is the likeliest of those on offer (chance {chance:.0%})"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
