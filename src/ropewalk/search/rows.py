"""What a search reads: windows of text, and rows with a planted answer whose key lies far away.

Fitting and validation never share a document, nor the seed of a planted row.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.text.corpus import Document, read_documents, training_documents
from ropewalk.text.segments import cut
from ropewalk.units import format_length

TASKS = ("needle", "kv", "multi-needle")
# Zones have numbers for single heads, and those that copy a long number are others than those that find a word.
ZONE_TASKS = (*TASKS, "passkey")
# What planted rows are for: no two share a seed.
USES = ("fit", "validation", "further")
FIT_SHARE = 0.75
LEAST_WINDOWS = 4

IdArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence. `answer` marks the tokens of the planted answer that count; in a text row none does."""

    ids: IdArray
    task: str = "text"
    depth: float | None = None
    answer: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class Rows:
    """Text and planted rows of one length."""

    text: list[Row]
    planted: list[Row]


@dataclass(frozen=True)
class Material:
    """Everything a search reads, by length: rows to fit on, others to validate on, and further planted ones for where
    validation's leave a doubt. `remarks` are for the user."""

    fit: dict[int, Rows]
    validation: dict[int, Rows]
    further: dict[int, list[Row]]
    source: str
    documents: tuple[list[str], list[str]]
    remarks: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Over the tokens of every row: the same files may hold another text the next time."""
        digest = hashlib.sha256()
        parts = [
            [*rows.text, *rows.planted] for part in (self.fit, self.validation) for rows in part.values()
        ]
        for row in chain(*parts, *self.further.values()):
            digest.update(row.ids.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Amounts:
    """How many rows of each kind: for fitting, for validation, and for where that leaves a doubt."""

    fit_text: int = 32
    fit_planted: int = 48
    validation_text: int = 12
    validation_planted: int = 16
    further_planted: int = 32


def gather(
    tokenizer: Any,
    text: str | Path | None,
    lengths: Sequence[int],
    tasks: Sequence[str],
    seed: int,
    amounts: Amounts,
) -> Material:
    """The rows of every length. Without a text of the user's: the training half of the standard library.

    The held-out half stays untouched, so that `eval` and `compare` measure a fitted schedule on text that it never saw.
    """
    documents = training_documents() if text is None else read_documents(text)
    mine, others = split_documents(documents, seed)
    longest = max(lengths)
    fit = _windows(mine, tokenizer, longest, amounts.fit_text, "fitting")
    validation = _windows(others, tokenizer, longest, amounts.validation_text, "validation")
    remarks = list[str]()
    counts = (amounts.fit_planted, amounts.validation_planted, amounts.further_planted)
    planted = {
        (use, length): planted_rows(
            tokenizer, tasks, length, count, seed_of(seed, use), remarks, spread=use != "fit"
        )
        for length in lengths
        for use, count in zip(USES, counts, strict=True)
    }
    return Material(
        fit={length: Rows(_cropped(fit, length), planted["fit", length]) for length in lengths},
        validation={
            length: Rows(_cropped(validation, length), planted["validation", length]) for length in lengths
        },
        further={length: planted["further", length] for length in lengths},
        source="training half of the standard library" if text is None else str(text),
        documents=([item.name for item in mine], [item.name for item in others]),
        remarks=list(dict.fromkeys(remarks)),
    )


def seed_of(seed: int, use: str) -> int:
    """The seed of the planted rows of a use."""
    return len(USES) * seed + USES.index(use)


def split_documents(documents: Sequence[Document], seed: int) -> tuple[list[Document], list[Document]]:
    """Documents for fitting and for validation, shuffled, about three to one by characters.

    A single document is cut in two, at three quarters of its length.
    """
    if len(documents) == 1:
        one = documents[0]
        at = int(FIT_SHARE * len(one.text))
        return [Document(one.name, one.text[:at])], [Document(f"{one.name}, end", one.text[at:])]
    # By name first: folders list their files in an order of their own, and the split must follow the seed alone.
    order = sorted(documents, key=lambda item: item.name)
    random.Random(seed).shuffle(order)
    total, taken, mine = sum(len(item.text) for item in order), 0, list[Document]()
    # The last document is never taken, however small the others are: validation needs one.
    for item in order[:-1]:
        if taken and taken + len(item.text) > FIT_SHARE * total:
            break
        mine.append(item)
        taken += len(item.text)
    return mine, order[len(mine) :]


def _windows(
    documents: Sequence[Document], tokenizer: Any, length: int, count: int, purpose: str
) -> list[Row]:
    """Windows of exactly `length` tokens; a text that has too few is refused with what is needed."""
    try:
        found = cut(documents, tokenizer, length, limit=count).items
    except UsageError:
        raise
    except RopewalkError as error:
        found, reason = (), error.message
    else:
        reason = f"{len(found)} of them are there"
    least = LEAST_WINDOWS if purpose == "fitting" else LEAST_WINDOWS // 2
    if len(found) < least:
        total = (LEAST_WINDOWS + LEAST_WINDOWS // 2 + 2) * length
        raise RopewalkError(
            f"too little text: {purpose} needs {least} windows of {format_length(length)} tokens ({reason})",
            hint=f"give at least {format_length(total)} tokens with --text, or a shorter --target",
        )
    return [Row(np.asarray(item.ids, dtype=np.int64)) for item in found]


def _cropped(rows: Sequence[Row], length: int) -> list[Row]:
    return [Row(row.ids[:length]) for row in rows]


def planted_rows(
    tokenizer: Any,
    tasks: Sequence[str],
    length: int,
    count: int,
    seed: int,
    remarks: list[str],
    *,
    spread: bool = False,
) -> list[Row]:
    """`count` rows of exactly `length` tokens that end in an answer, the tasks in turn.

    Keys stand in the first four fifths, where the answer is far away; with `spread` all over the text, evenly.
    """
    from ropewalk.evaluation.retrieval.run import Asking, plan_tasks

    by_task: list[list[Row]] = []
    for task in tasks:
        # Rounded up: what is too much is cut off where the tasks are put together.
        each = -(-count // len(tasks))
        rng = random.Random(f"{seed}/{task}/{length}")
        depths = [
            round((step + 0.5) / each, 4) if spread else round(0.8 * rng.random(), 4) for step in range(each)
        ]
        rows: list[Row] = []
        try:
            for number, depth in enumerate(depths):
                # Apart for every row; those of other uses have another `seed`.
                asking = Asking([task], [length], depths=[depth], samples=1, seed=1000 * seed + number)
                plan = plan_tasks(tokenizer, asking, style="completion")
                rows += [_row(sample) for group in plan.groups for sample in group]
                if len(rows) >= each:
                    break
        except UsageError as error:
            remarks.append(f"task {task} left out at {format_length(length)} tokens: {error.message}")
        if rows:
            by_task.append(rows)
    return [rows[turn] for turn in range(count) for rows in by_task if turn < len(rows)][:count]


def _row(sample: Any) -> Row:
    prompt = np.asarray(sample.prompt_ids, dtype=np.int64)
    marked: list[int] = []
    at = len(prompt)
    for span in sample.answer:
        if span.scored:
            marked += range(at, at + len(span.ids))
        at += len(span.ids)
    ids = np.concatenate([prompt, np.asarray(sample.answer_ids, dtype=np.int64)])
    return Row(ids, sample.task, sample.depth, tuple(marked))
