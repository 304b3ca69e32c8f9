"""One model, one schedule: loss by length, loss inside the window, retrieval by depth; and the cropped control.

Every candidate reads the same windows and answers the same questions, so candidates are compared pairwise. A static
schedule is one function of position, so one pass over a window of the target length gives the loss at every length.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.corpus import Document
from ropewalk.text.encoder import TokenizerEncoder

if TYPE_CHECKING:
    from ropewalk.evaluation.forward.engine import Engine
    from ropewalk.evaluation.retrieval.run import Plan

SPAN = 256
CURVE_POINTS = 64
OnTokens = Callable[[int], None]
Credits = dict[tuple[str, int, float], list[float]]


@dataclass(frozen=True)
class Text:
    """Windows of exactly the target length (rows), the tokens that open every text of this model, and the source."""

    rows: list[list[int]]
    opening: tuple[int, ...]
    documents: list[str]
    joined: bool

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return len(self.rows[0])

    def first(self, length: int) -> Text:
        """The first `length` tokens of every window."""
        return replace(self, rows=[row[:length] for row in self.rows])


@dataclass(frozen=True)
class Scores:
    """What one candidate came to. Losses are nats per token, one value a window; credits one value a question.

    `by_length[l]` is the loss of the last `span` tokens before length l, `in_window` that of all tokens inside the
    original window, `bands` the mean loss with a context of L/8..L/4, L/4..L/2 and L/2..L tokens,
    `curve` the mean loss in `CURVE_POINTS` equal parts of the target length,
    `credits[(task, length, depth)]` the credit of each question there.
    """

    by_length: dict[int, list[float]]
    in_window: list[float]
    bands: list[float]
    curve: list[float]
    credits: Credits = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the file that keeps a finished candidate."""
        return {
            "by_length": {str(length): values for length, values in self.by_length.items()},
            "in_window": self.in_window,
            "bands": self.bands,
            "curve": self.curve,
            "credits": [[*cell, values] for cell, values in self.credits.items()],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Scores:
        """What `to_json` wrote."""
        return cls(
            {int(length): list(values) for length, values in document["by_length"].items()},
            list(document["in_window"]),
            list(document["bands"]),
            list(document["curve"]),
            {
                (str(task), int(length), float(depth)): list(values)
                for task, length, depth, values in document["credits"]
            },
        )

    def credit_at(self, length: int) -> list[float]:
        """Every question at that length, in a fixed order."""
        return [
            value
            for (_, asked, _), values in sorted(self.credits.items())
            if asked == length
            for value in values
        ]


def cut_windows(tokenizer: Any, documents: Sequence[Document], length: int, count: int, seed: int) -> Text:
    """`count` windows of `length` tokens, at most one from each document in turn, no two overlapping.

    Where no document is long enough, all of them are joined by blank lines first, and the result says so.
    """
    opening = TokenizerEncoder(tokenizer).opening
    need = length - len(opening)
    if need < 2:
        raise UsageError(f"target_length={length} leaves no text to measure", hint="choose a longer target")
    order = list(documents)
    random.Random(seed).shuffle(order)
    long = [item for item in order if len(item.text) >= need]
    pools = [
        (item.name, ids)
        for item in long[: max(count, 1) * 3]
        if len(ids := _encode(tokenizer, item.text)) >= need
    ]
    joined = not pools
    if joined:
        pools = [
            (
                " + ".join(item.name for item in order),
                _encode(tokenizer, "\n\n".join(item.text for item in order)),
            )
        ]
    rows: list[list[int]] = []
    names: list[str] = []
    for turn in range(max(len(ids) // need for _, ids in pools)):
        for name, ids in pools:
            piece = ids[turn * need : (turn + 1) * need]
            if len(piece) == need and len(rows) < count:
                rows.append([*opening, *piece])
                names.append(name)
    if not rows:
        total = max(len(ids) for _, ids in pools)
        raise RopewalkError(
            f"the text has {total} tokens with this tokenizer, target_length={length} needs {need} in one piece",
            hint="give more text with --text, or a shorter target",
        )
    return Text(rows, opening, names, joined)


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def span_of(original_length: int) -> int:
    """Tokens scored before each length: 256, and never more than half of the window."""
    return max(1, min(SPAN, original_length // 2))


def text_scores(
    engine: Engine, text: Text, lengths: Sequence[int], original_length: int, on_tokens: OnTokens
) -> Scores:
    """Loss by length, loss inside the window and loss by context; no questions yet."""
    span = span_of(original_length)
    by_length: dict[int, list[float]] = {length: [] for length in lengths}
    in_window: list[float] = []
    bands: list[list[float]] = []
    curves: list[list[float]] = []
    # Where the rotation depends on the length of the text, each regime needs a pass of its own.
    groups = [list(lengths)] if engine.regime is None else engine.regime.groups(lengths)
    size = engine.rows_for(max(lengths))
    for start in range(0, len(text.rows), size):
        rows = text.rows[start : start + size]
        for group in groups:
            longest = max(group)
            losses = engine.nll([row[:longest] for row in rows]).double().numpy()
            on_tokens(longest * len(rows))
            for length in group:
                by_length[length] += losses[:, length - 1 - span : length - 1].mean(axis=1).tolist()
            if longest == max(lengths):
                points = min(CURVE_POINTS, longest - 1)
                curves += [[float(part.mean()) for part in np.array_split(row, points)] for row in losses]
            if original_length in group:
                inside = losses[:, : original_length - 1]
                in_window += inside.mean(axis=1).tolist()
                edges = [
                    original_length >> 3,
                    original_length >> 2,
                    original_length >> 1,
                    original_length - 1,
                ]
                bands += [[float(row[a:b].mean()) for a, b in itertools.pairwise(edges)] for row in inside]
    return Scores(by_length, in_window, _mean_of(bands), _mean_of(curves))


def _mean_of(rows: list[list[float]]) -> list[float]:
    mean: list[float] = np.mean(rows, axis=0).tolist() if rows else []
    return mean


def cropped_scores(
    engine: Engine, text: Text, lengths: Sequence[int], original_length: int
) -> dict[int, list[float]]:
    """Loss by length of the model that sees only the last `original_length` tokens; the same tokens are scored."""
    span = span_of(original_length)
    kept = original_length - len(text.opening)
    begin = len(text.opening)
    found = {}
    for length in lengths:
        rows = [[*text.opening, *row[max(begin, length - kept) : length]] for row in text.rows]
        found[length] = engine.nll(rows)[:, -span:].double().mean(dim=1).tolist()
    return found


def question_scores(engine: Engine, tokenizer: Any, plan: Plan, on_tokens: OnTokens) -> Credits:
    """Credit of every question by length and depth, in the order of the samples."""
    from ropewalk.evaluation.retrieval.run import run_plan

    seen = [0]

    def told(done: int, total: int) -> None:
        on_tokens(done - seen[0])
        seen[0] = done

    found = run_plan(engine, tokenizer, plan, on_tokens=told)
    credits: Credits = {}
    for score in sorted(found, key=lambda item: item.key):
        credits.setdefault((score.task, score.length, float(score.depth or 0.0)), []).append(score.credit)
    return credits


def cropped_questions(engine: Engine, plan: Plan, original_length: int, opening: Sequence[int]) -> Credits:
    """The same questions, asked of the model that sees only the last `original_length` tokens, the answer included."""
    from ropewalk.evaluation.retrieval.scores import Told, teacher_forced

    credits: Credits = {}
    samples = sorted(
        (sample for group in plan.groups for sample in group),
        key=lambda item: item.key,
    )
    for sample in samples:
        prompt = np.asarray(sample.prompt_ids)
        room = original_length - len(sample.answer_ids) - len(opening)
        seen = prompt.tolist() if len(prompt) <= room + len(opening) else [*opening, *prompt[-room:].tolist()]
        said = engine.context(seen, capacity=original_length).score(sample.answer_ids)
        score = teacher_forced(sample, Told(said.tokens, said.logprobs, said.greedy))
        credits.setdefault((score.task, score.length, float(score.depth or 0.0)), []).append(score.credit)
    return credits
