"""What a schedule is judged by, as weights on tokens, so that one number serves sweeps, gradients and validation.

    J =        mean over text rows:    loss beyond the window, weighted towards the tail
      + window * mean over text rows:    loss inside the window (positions below L, under the stretched schedule)
      + keys   * mean over text rows:    loss of key tokens: what far text says and near text does not (see `keys`)
      + answer * mean over planted rows: loss of the planted answer's tokens

Every term is a mean of token losses, so J is a weighted sum of them, and its gradient comes from one loss per row.
Without the planted answers a fit trades far keys for near text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.geometry import FloatArray
from ropewalk.search.rows import Row


@dataclass(frozen=True)
class Objective:
    """The weights of the terms beside the text's. The last token of a text weighs 1 + `tail` times as much as the
    first one beyond the window."""

    window: float = 0.5
    keys: float = 0.2
    answer: float = 0.5
    tail: float = 2.0

    def to_json(self) -> dict[str, float]:
        """For the result."""
        return asdict(self)


def usual(search: str) -> Objective:
    """The objective of a search where none is given. Zones cost nothing inside the window, and are asked to hold at
    every length beyond it alike, each token for what it is: the single heads that find keys need no weight beside the
    answers, and what key tokens gain the rest of the text would pay."""
    return Objective(window=0.0, keys=0.0, answer=0.25, tail=0.0) if search == "zones" else Objective()


def token_weights(
    row: Row, original_length: int, objective: Objective, keys: FloatArray | None = None
) -> FloatArray:
    """The weight of each token's loss in its row's part of J; the first token, which nothing predicts, has none."""
    weights = np.zeros(row.length)
    if row.answer:
        weights[list(row.answer)] = objective.answer / len(row.answer)
        return weights
    inside = min(original_length, row.length)
    weights[1:inside] = objective.window / max(1, inside - 1)
    if row.length > original_length:
        far = 1.0 + objective.tail * np.linspace(0.0, 1.0, row.length - original_length)
        weights[original_length:] = far / far.sum()
    else:
        # No token lies beyond: the whole row stands for the text.
        weights[1:inside] += 1.0 / max(1, inside - 1)
    if keys is not None and keys.any():
        weights += objective.keys * keys / keys.sum()
    return weights


@dataclass(frozen=True)
class Terms:
    """What one schedule came to on some rows. `by_row` are the rows' parts of J, in order: for paired comparisons.

    `text` is the plain mean loss beyond the window, `tail` that of the last tokens, `window` that inside it, `key` that
    of key tokens, `answer` that of the answers' tokens; `found` is 1 for a planted row whose answer greedy decoding
    would have written.
    """

    value: float
    by_row: list[float]
    text: float | None
    tail: float | None
    window: float | None
    key: float | None
    answer: float | None
    found: dict[str, list[float]] = field(default_factory=dict)

    @property
    def retrieval(self) -> float | None:
        """The share of planted rows whose answer is found."""
        asked = sum(len(values) for values in self.found.values())
        return self.answers / asked if asked else None

    @property
    def answers(self) -> float:
        """How many planted answers are found, of all tasks."""
        return sum(sum(values) for values in self.found.values())

    def to_json(self) -> dict[str, Any]:
        """For results and traces."""
        return {
            "objective": self.value,
            "loss": self.text,
            "loss_at_target": self.tail,
            "loss_in_window": self.window,
            "key_token_loss": self.key,
            "answer_loss": self.answer,
            "retrieval_at_target": self.retrieval,
            "retrieval_by_task": {task: sum(values) / len(values) for task, values in self.found.items()},
        }


@dataclass(frozen=True)
class Weighed:
    """A row with the weights of its tokens and its key tokens."""

    row: Row
    weights: FloatArray
    keys: FloatArray | None = None

    @property
    def planted(self) -> bool:
        """Whether it ends in an answer."""
        return bool(self.row.answer)

    @property
    def keyed(self) -> bool:
        """Whether it is a text that holds a key token."""
        return len(self.key_places) > 0

    @property
    def key_places(self) -> NDArray[np.int64]:
        """Where a text's key tokens stand."""
        if self.planted or self.keys is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.keys)


def weigh(
    rows: Sequence[Row],
    original_length: int,
    objective: Objective,
    keys: Sequence[FloatArray | None] | None = None,
) -> list[Weighed]:
    """Rows with their weights; `keys` belong to the rows in order."""
    found = keys or [None] * len(rows)
    return [
        Weighed(row, token_weights(row, original_length, objective, key), key)
        for row, key in zip(rows, found, strict=True)
    ]


def terms_of(
    rows: Sequence[Weighed],
    losses: Sequence[FloatArray],
    found: Sequence[bool],
    original_length: int,
    tail: int,
) -> Terms:
    """The terms of rows that were read. `losses[i][t]` is the loss of token t of row i; entry 0 is not used."""
    by_row = [float(item.weights @ loss) for item, loss in zip(rows, losses, strict=True)]
    texts = [(item, loss) for item, loss in zip(rows, losses, strict=True) if not item.planted]
    planted = [(item, loss, hit) for item, loss, hit in zip(rows, losses, found, strict=True) if item.planted]
    hits: dict[str, list[float]] = {}
    for item, _, hit in planted:
        hits.setdefault(item.row.task, []).append(float(hit))
    beyond = [loss[original_length:] if len(loss) > original_length else loss[1:] for _, loss in texts]
    return Terms(
        value=_value(rows, by_row),
        by_row=by_row,
        text=_mean([float(loss.mean()) for loss in beyond]),
        tail=_mean([float(loss[-tail:].mean()) for _, loss in texts]),
        window=_mean([float(loss[1:original_length].mean()) for _, loss in texts]),
        key=_mean([float(loss[item.key_places].mean()) for item, loss in texts if item.keyed]),
        answer=_mean([float(loss[list(item.row.answer)].mean()) for item, loss, _ in planted]),
        found=hits,
    )


def joined(one: Terms, other: Terms, rows: Sequence[Weighed]) -> Terms:
    """The terms of some rows and of those after them, as if they had been read at once; `rows` are all of them."""
    by_row = [*one.by_row, *other.by_row]
    parts = rows[: len(one.by_row)], rows[len(one.by_row) :]

    def mean(name: str, counts: Callable[[Weighed], bool]) -> float | None:
        values: list[float] = []
        for terms, part in zip((one, other), parts, strict=True):
            found = getattr(terms, name)
            values += [] if found is None else [found] * sum(map(counts, part))
        return _mean(values)

    def text(item: Weighed) -> bool:
        return not item.planted

    return Terms(
        value=_value(rows, by_row),
        by_row=by_row,
        text=mean("text", text),
        tail=mean("tail", text),
        window=mean("window", text),
        key=mean("key", lambda item: item.keyed),
        answer=mean("answer", lambda item: item.planted),
        found={
            task: [*one.found.get(task, []), *other.found.get(task, [])]
            for task in {**one.found, **other.found}
        },
    )


def _value(rows: Sequence[Weighed], by_row: Sequence[float]) -> float:
    """J: the mean over text rows and the mean over planted ones."""
    texts = [value for item, value in zip(rows, by_row, strict=True) if not item.planted]
    answers = [value for item, value in zip(rows, by_row, strict=True) if item.planted]
    return (_mean(texts) or 0.0) + (_mean(answers) or 0.0)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class Gain:
    """By how much one kind of row's part of J fell, and the standard error of that: paired, row by row."""

    value: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether it stands above its own noise."""
        return self.value > self.error


def summed(gains: Iterable[Gain]) -> Gain:
    """The gain on rows of all kinds, whose noise is independent."""
    kinds = list(gains)
    return Gain(sum(gain.value for gain in kinds), math.hypot(*(gain.error for gain in kinds)))


def surely_fewer(before: Terms, after: Terms) -> bool:
    """Whether of one task, or of all together, fewer answers are found, by more than the standard error: of n questions
    that only one of the two answers, sqrt(n)."""
    tasks = [[*zip(values, after.found[task], strict=True)] for task, values in before.found.items()]
    return any(
        sum(one - other for one, other in pairs) > sum(one != other for one, other in pairs) ** 0.5
        for pairs in (*tasks, [pair for pairs in tasks for pair in pairs])
    )


def gains_over(before: Terms, after: Terms, rows: Sequence[Weighed]) -> dict[str, Gain]:
    """The gains from `before` to `after` on text and on planted rows, each where there are any."""
    found = {}
    for kind, planted in (("text", False), ("answers", True)):
        differences = [
            one - other
            for item, one, other in zip(rows, before.by_row, after.by_row, strict=True)
            if item.planted == planted
        ]
        if differences:
            # A single row shows no noise to stand above.
            spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else float("inf")
            found[kind] = Gain(float(np.mean(differences)), spread / len(differences) ** 0.5)
    return found
