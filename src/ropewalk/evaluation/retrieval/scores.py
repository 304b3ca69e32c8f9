"""From answers to rows: how one sample is scored, and how samples become a row with chance beside the score."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ropewalk.errors import DamagedError, UsageError, one_line
from ropewalk.evaluation.tasks.sample import Sample

SCORINGS = ("teacher-forced", "forced-choice", "generation")
# The normal distribution's 97.5 % point.
_WILSON_Z = 1.96


@dataclass(frozen=True)
class SampleScore:
    """What one sample came to. `credit` is 0 to 1; `logprob` (nats) is of the whole right answer where it is known.

    `choice_logprob` is that of the right answer among those on offer: ln(1/n) for a guesser; it moves before `credit`.
    """

    task: str
    length: int
    depth: float | None
    index: int
    query: int
    scoring: str
    template: str
    credit: float
    chance: float
    logprob: float | None = None
    text: str | None = None
    prompt_tokens: int | None = None
    choice_logprob: float | None = None

    @property
    def key(self) -> tuple[str, int, float | None, int, int]:
        """The same as the sample's."""
        return (self.task, self.length, self.depth, self.index, self.query)

    def to_json(self) -> dict[str, Any]:
        """For keeping finished work."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SampleScore:
        """What `to_json` wrote."""
        try:
            return cls(**document)
        except TypeError as error:
            raise DamagedError(
                f"a kept score is incomplete ({one_line(error)})", hint="delete it and run again"
            ) from error


class Told(Protocol):
    """What a model said about one continuation: each token's log probability and the greedy choice there."""

    @property
    def tokens(self) -> Sequence[int]:
        """The continuation."""

    @property
    def logprobs(self) -> Sequence[float]:
        """Natural, one a token."""

    @property
    def greedy(self) -> Sequence[int]:
        """What greedy decoding would have written in each place."""


def check_scoring(scoring: str) -> str:
    """The name of a scoring, or a UsageError that lists them."""
    if scoring not in SCORINGS:
        raise UsageError(f"no scoring {one_line(scoring, 40)!r}", hint=f"use one of {', '.join(SCORINGS)}")
    return scoring


def teacher_forced(sample: Sample, told: Told) -> SampleScore:
    """Credit: the share of values whose every token greedy decoding would have written, the others given.

    `logprob` is ln p of all values' tokens; the commas between them do not count.
    """
    right, values, logprob, at = 0, 0, 0.0, 0
    for span in sample.answer:
        end = at + len(span.ids)
        if span.scored:
            values += 1
            right += list(told.tokens[at:end]) == list(told.greedy[at:end])
            logprob += sum(told.logprobs[at:end])
        at = end
    return _score(sample, "teacher-forced", right / values, sample.chance, logprob=logprob)


def forced_choice(sample: Sample, logprobs: Sequence[float]) -> SampleScore:
    """Credit: 1 if the right answer (first) is the likeliest of all; equally likely ones share it.

    Chance is 1/n for n answers.
    """
    best = max(logprobs)
    winners = [number for number, value in enumerate(logprobs) if value == best]
    credit = 1 / len(winners) if 0 in winners else 0.0
    # Less the best, or the exponentials of long answers would all be zero.
    among = logprobs[0] - best - math.log(math.fsum(math.exp(value - best) for value in logprobs))
    score = _score(sample, "forced-choice", credit, 1 / len(logprobs), logprob=logprobs[0])
    return dataclasses.replace(score, choice_logprob=among)


def generated(sample: Sample, text: str, *, prompt_tokens: int | None = None) -> SampleScore:
    """Credit: the share of values that stand in the text as words of their own, in any order."""
    said = " ".join(text.split()).casefold()
    values = [span for span in sample.answer if span.scored]
    right = sum(any(_says(said, spelling) for spelling in span.spellings) for span in values)
    score = _score(sample, "generation", right / len(values), sample.chance)
    return dataclasses.replace(score, text=text, prompt_tokens=prompt_tokens)


def _says(said: str, spelling: str) -> bool:
    wanted = " ".join(spelling.split()).casefold()
    # Not inside a longer word: who says 148213 has not said 48213.
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) is not None


def require_choices(sample: Sample) -> None:
    """Forced choice needs at least one wrong answer."""
    if not sample.choices:
        raise UsageError(
            f"task {sample.task!r} has no wrong answers to choose from",
            hint="give a question file with several different answers, or use --scoring teacher-forced",
        )


def _score(
    sample: Sample, scoring: str, credit: float, chance: float, *, logprob: float | None = None
) -> SampleScore:
    return SampleScore(
        task=sample.task,
        length=sample.length,
        depth=sample.depth,
        index=sample.index,
        query=sample.query,
        scoring=scoring,
        template=sample.template,
        credit=credit,
        chance=chance,
        logprob=logprob,
    )


def rows_of(scores: Iterable[SampleScore]) -> list[dict[str, Any]]:
    """One row a task, length and depth: `{task, length, depth, accuracy, chance, logprob, samples, scoring, ...}`.

    `ci` is Wilson's 95 % interval, read with one trial a sample.
    """
    cells: dict[tuple[Any, ...], list[SampleScore]] = {}
    for score in scores:
        cells.setdefault((score.task, score.scoring, score.length, score.depth), []).append(score)
    tasks = list(dict.fromkeys(cell[0] for cell in cells))

    def order(cell: tuple[Any, ...]) -> tuple[int, int, float]:
        return tasks.index(cell[0]), cell[2], -1.0 if cell[3] is None else cell[3]

    return [_row(sorted(cells[cell], key=lambda score: score.key[3:])) for cell in sorted(cells, key=order)]


def _row(scores: Sequence[SampleScore]) -> dict[str, Any]:
    first, count = scores[0], len(scores)
    accuracy = math.fsum(score.credit for score in scores) / count
    logprobs = [score.logprob for score in scores if score.logprob is not None]
    row: dict[str, Any] = {
        "task": first.task,
        "length": first.length,
        "depth": first.depth,
        "accuracy": accuracy,
        "chance": math.fsum(score.chance for score in scores) / count,
        "logprob": math.fsum(logprobs) / len(logprobs) if logprobs else None,
        "samples": count,
        "scoring": first.scoring,
        "ci": wilson(accuracy, count),
        "template": first.template,
    }
    among = [score.choice_logprob for score in scores if score.choice_logprob is not None]
    if among:
        row["choice_logprob"] = math.fsum(among) / len(among)
    counted = [score.prompt_tokens for score in scores if score.prompt_tokens is not None]
    return row | ({"prompt_tokens": round(sum(counted) / len(counted))} if counted else {})


def wilson(share: float, count: int) -> list[float]:
    """Wilson's 95 % interval of a share over `count` trials."""
    z = _WILSON_Z
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def tasks_at_chance(scores: Sequence[SampleScore], length: int) -> list[str]:
    """Tasks that are not surely (Wilson's interval) above chance at a length where they were asked."""
    found = []
    for task in dict.fromkeys(score.task for score in scores):
        rows = [score for score in scores if score.task == task and score.length == length]
        if not rows:
            continue
        low, _ = wilson(math.fsum(row.credit for row in rows) / len(rows), len(rows))
        if low <= math.fsum(row.chance for row in rows) / len(rows):
            found.append(task)
    return found


def by_length(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows averaged over depths and tasks: what retrieval at each length comes to, chance beside it."""
    lengths: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        lengths.setdefault(row["length"], []).append(row)
    return [
        {
            "length": length,
            "accuracy": math.fsum(row["accuracy"] * row["samples"] for row in found) / samples,
            "chance": math.fsum(row["chance"] * row["samples"] for row in found) / samples,
            "samples": samples,
        }
        for length, found in sorted(lengths.items())
        if (samples := sum(row["samples"] for row in found))
    ]
