"""A search made ready: the model, its rungs, the rows that each is fitted and judged on, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.objective import Objective, Terms, Weighed, key_tokens, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Material, Row, Rows, planted_rows

# A task of which the model solves less than this inside its own window says nothing about a stretch.
LEAST_SKILL = 0.3
SKILL_ROWS = 6
# Rows for whose key tokens the model is read once more in short pieces.
KEYED_ROWS = 8
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
    start: FrequencySchedule | None = None
    start_name: str = ""
    before: Terms | None = None
    keyed: bool = field(default=False)

    def step_rows(self, step: int, most: int) -> tuple[list[Weighed], list[Weighed]]:
        """The rows of a step, in an order that depends on its number alone."""
        first = step * most
        text = [self.text[(first + number) % len(self.text)] for number in range(most)]
        count = min(most, len(self.planted))
        planted = [self.planted[(first + number) % len(self.planted)] for number in range(count)]
        return text, planted

    def sweep_rows(self) -> list[Weighed]:
        """Text and planted rows in turn; the fit sees them again, validation never."""
        pairs = zip(self.text[:SWEEP_PAIRS], [*self.planted[:SWEEP_PAIRS], *[None] * SWEEP_PAIRS])
        return [row for pair in pairs for row in pair if row is not None]


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
    kept, shares = [], []
    length = reader.original_length
    for task in tasks:
        rows = planted_rows(tokenizer, [task], length, SKILL_ROWS, 2 * seed + 1, remarks, spread=True)
        if not rows:
            continue
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
        remarks.append(
            "no planted answers in the objective: the model finds none inside its window, so retrieval is not guarded"
        )
    return kept, float(np.mean(shares)) if shares else None


def make_rungs(
    reader: Reader,
    material: Material,
    factors: Sequence[float],
    objective: Objective,
    retrieval_in_window: float | None,
) -> list[Rung]:
    """The rungs of a search, lowest factor first, with their controls measured; key tokens come later."""
    rungs = []
    # `material` keeps its lengths in the order of the factors that they came from.
    for factor, length in sorted(zip(factors, material.fit, strict=True)):
        mine, others = material.fit[length], material.validation[length]
        rungs.append(
            Rung(
                factor,
                length,
                weigh(mine.text, reader.original_length, objective),
                weigh(mine.planted, reader.original_length, objective),
                weigh([*others.text, *others.planted], reader.original_length, objective),
                controls_of(reader, others, length) | {"retrieval_in_window": retrieval_in_window},
            )
        )
    return rungs


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


def add_keys(reader: Reader, rung: Rung, objective: Objective) -> None:
    """Find the key tokens of the validation text and of the first rows of the fit, with the rung's start as evaluator.

    They are fixed from then on, whatever schedule is measured.
    """
    if rung.keyed or rung.length <= reader.original_length or objective.keys <= 0:
        return
    rung.text[:KEYED_ROWS] = _with_keys(reader, rung, rung.text[:KEYED_ROWS], objective)
    texts = [item for item in rung.validation if not item.planted]
    rung.validation[: len(texts)] = _with_keys(reader, rung, texts, objective)
    rung.keyed = True


def _with_keys(reader: Reader, rung: Rung, rows: Sequence[Weighed], objective: Objective) -> list[Weighed]:
    far, _ = reader.read(rung.start, [item.row.ids for item in rows])
    window = reader.original_length
    near = [near_losses(reader, item.row, window) for item in rows]
    keys: list[FloatArray | None] = [
        key_tokens(item.row, one, other, window) for item, one, other in zip(rows, far, near, strict=True)
    ]
    return weigh([item.row for item in rows], window, objective, keys)


def near_losses(reader: Reader, row: Row, window: int) -> FloatArray:
    """The loss of each token for the unmodified model that sees half a window before it at least, a window at most."""
    half = window // 2
    starts = list(range(0, max(1, row.length - window + 1), half))
    if starts[-1] + window < row.length:
        starts.append(row.length - window)
    pieces, _ = reader.read(None, [row.ids[start : start + window] for start in starts])
    losses = np.zeros(row.length)
    for start, piece in zip(starts, pieces, strict=True):
        # In the second half of a piece every token has half a window before it.
        first = 0 if start == 0 else window - half
        losses[start + first : start + len(piece)] = piece[first:]
    return losses
