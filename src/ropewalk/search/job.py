"""A search made ready: the model, its rungs, the rows that each is fitted and judged on, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.schedule import FrequencySchedule
from ropewalk.search.keys import find_keys
from ropewalk.search.objective import Objective, Terms, Weighed, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Material, Row, Rows, planted_rows, seed_of

# A task of which the model solves less than this inside its own window says nothing about a stretch.
LEAST_SKILL = 0.3
SKILL_ROWS = 6
SWEEP_PAIRS = 6


@dataclass
class Rung:
    """One factor of a search. `start` and `before` are filled in once the sweep has chosen."""

    factor: float
    length: int
    text: list[Weighed]
    planted: list[Weighed]
    validation: list[Weighed]
    controls: dict[str, Any]
    further: list[Weighed]
    start: FrequencySchedule | None = None
    start_name: str = ""
    before: Terms | None = None

    def step_rows(self, step: int, most: int) -> tuple[list[Weighed], list[Weighed]]:
        """The rows of a step, in an order that depends on its number alone."""
        first = step * most
        text = [self.text[(first + number) % len(self.text)] for number in range(most)]
        count = min(most, len(self.planted))
        planted = [self.planted[(first + number) % len(self.planted)] for number in range(count)]
        return text, planted

    def sweep_rows(self) -> list[Weighed]:
        """Text and planted rows in turn, of text twice as many where nothing is planted; the fit sees them again,
        validation never."""
        if not self.planted:
            return self.text[: 2 * SWEEP_PAIRS]
        pairs = zip(self.text[:SWEEP_PAIRS], self.planted[:SWEEP_PAIRS])
        return [row for pair in pairs for row in pair]


@dataclass
class Job:
    """All rungs, lowest first, with what was found out about the model."""

    reader: Reader
    rungs: list[Rung]
    tasks: list[str]
    objective: Objective
    remarks: list[str]

    @property
    def top(self) -> Rung:
        """The highest rung."""
        return self.rungs[-1]


def skilled_tasks(
    reader: Reader, tokenizer: Any, tasks: Sequence[str], seed: int, remarks: list[str]
) -> tuple[list[str], float | None]:
    """The tasks that the unmodified model solves inside its window, and how much of them it finds there."""
    kept, shares, asked = [], [], False
    length = reader.original_length
    for task in tasks:
        rows = planted_rows(
            tokenizer, [task], length, SKILL_ROWS, seed_of(seed, "validation"), remarks, spread=True
        )
        if not rows:
            continue
        asked = True
        terms = reader.terms(None, weigh(rows, length, Objective()))
        share = terms.retrieval or 0.0
        if share < LEAST_SKILL:
            remarks.append(
                f"task {task} is left out: the model finds {share:.0%} of it inside its own window"
            )
            continue
        kept.append(task)
        shares.append(share)
    if not kept:
        why = "the model finds none" if asked else "none was asked"
        remarks.append(
            f"no planted answers in the objective: {why} inside its window, so retrieval is not guarded"
        )
    return kept, float(np.mean(shares)) if shares else None


def make_rungs(
    reader: Reader,
    material: Material,
    factors: Sequence[float],
    objective: Objective,
    retrieval_in_window: float | None,
) -> list[Rung]:
    """The rungs of a search, lowest factor first, with their key tokens found and their controls measured."""
    rungs = []
    # `material` keeps its lengths in the order of the factors that they came from.
    for factor, length in sorted(zip(factors, material.fit, strict=True)):
        mine, others = material.fit[length], material.validation[length]
        rungs.append(
            Rung(
                factor,
                length,
                _weighed_text(reader, mine.text, objective),
                weigh(mine.planted, reader.original_length, objective),
                [
                    *_weighed_text(reader, others.text, objective),
                    *weigh(others.planted, reader.original_length, objective),
                ],
                controls_of(reader, others, length) | {"retrieval_in_window": retrieval_in_window},
                weigh(material.further[length], reader.original_length, objective),
            )
        )
    return rungs


def _weighed_text(reader: Reader, rows: Sequence[Row], objective: Objective) -> list[Weighed]:
    keys = find_keys(reader, rows) if objective.keys > 0 else None
    return weigh(rows, reader.original_length, objective, keys)


def controls_of(reader: Reader, rows: Rows, length: int) -> dict[str, Any]:
    """The unmodified model inside its window, and cropped to the last tokens of it at the end of each row."""
    window, tail = reader.original_length, reader.tail
    inside, _ = reader.read(None, [row.ids[:window] for row in rows.text])
    last, _ = reader.read(None, [row.ids[-window:] for row in rows.text])
    return {
        "unmodified_in_window": float(np.mean([loss[1:].mean() for loss in inside])),
        "cropped": float(np.mean([loss[-tail:].mean() for loss in last])),
        "length": length,
    }
