"""How much text there is for what a recipe wants to train, said before it trains.

For every stage and text source: documents that reach the stage's length, how often the stage reads the source, and of
its first rows the share that is padding and the share of documents that are cut.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.training.data.mixture import Mixture, TextSource
from ropewalk.training.data.stages import Curriculum, StageState
from ropewalk.training.data.streams import DocumentStream, FittedStream
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.units import format_length

# More text than this is not made into tokens to be counted: lengths are then estimated from a sample.
COUNTED_CHARACTERS = 4_000_000
SAMPLED_DOCUMENTS = 64
TRIED_ROWS, TRIED_TOKENS = 64, 400_000
# A mix deals its lengths out over several steps: one alone may hold none of a length.
TRIED_STEPS = 8


@dataclass(frozen=True)
class SourceReport:
    """One source in one stage. `estimated` says that lengths come from a sample."""

    stage: int
    length: int
    source: str
    documents: int
    reaching: int
    tokens: int
    epochs: float | None
    padding: float
    cut: float
    estimated: bool

    def line(self) -> str:
        """In words."""
        about = "about " if self.estimated else ""
        often = "" if self.epochs is None else f", read {self.epochs:.2g} times"
        return (
            f"stage {self.stage + 1}, {self.source}: {about}{self.reaching} of {self.documents} documents reach "
            f"{format_length(self.length)}, {about}{self.tokens} tokens{often}; padding {self.padding:.1%}, "
            f"documents cut {self.cut:.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def report(mixture: Mixture, curriculum: Curriculum) -> list[SourceReport]:
    """A report for every stage and every source of text that it reads."""
    found = []
    counted = {item.name: token_lengths(item) for item in mixture.sources if isinstance(item, TextSource)}
    for number, stage in enumerate(curriculum.stages):
        given = dict(zip((item.name for item in mixture.sources), mixture.usual, strict=True))
        if stage.sources is not None:
            given = {name: stage.sources.get(name, 0.0) for name in given}
        total = sum(given.values())
        shares = {name: share / total for name, share in given.items()}
        planned = stage_tokens(curriculum, number)
        for item in mixture.sources:
            if not isinstance(item, TextSource) or not shares[item.name]:
                continue
            lengths, estimated = counted[item.name]
            total = int(lengths.sum())
            padding, cut = tried_rows(item, stage.length)
            found.append(
                SourceReport(
                    stage=number,
                    length=stage.length,
                    source=item.name,
                    documents=len(lengths),
                    reaching=int((lengths >= stage.length).sum()),
                    tokens=total,
                    epochs=planned * shares[item.name] / total if total else None,
                    padding=padding,
                    cut=cut,
                    estimated=estimated,
                )
            )
    return found


def warnings_of(reports: list[SourceReport], original_length: int, ends: bool) -> list[str]:
    """What of it a user must know: long rows without a long text, rows that repeat a text, texts without an end."""
    said = []
    for item in reports:
        where = f"stages.{item.stage}: source {item.source!r}"
        if item.tokens < item.length:
            said.append(
                f"{where} has {item.tokens} tokens, less than one row of {item.length}: rows repeat it or are padded"
            )
        elif not item.reaching and item.length > original_length:
            said.append(
                f"{where} has no document of {item.length} tokens: its rows are made of several, and nothing in them "
                "needs the length"
            )
    if not ends:
        said.append("the tokenizer has no end-of-text token: nothing marks where one document of a row ends")
    return said


def idle_processes(recipe: Recipe, curriculum: Curriculum, rows_at_once: int) -> list[str]:
    """Stages whose steps have fewer rows of a length than are trained at the same time, in words."""
    said = []
    for number, stage in enumerate(recipe.stages):
        # Planning counts what it serves: in a state of its own, so that the run's stays.
        trial = copy.copy(curriculum)
        trial.state = StageState(stage=number)
        counts = Counter(length for step in range(TRIED_STEPS) for length in trial.plan(step))
        rows = counts[trial.length] / TRIED_STEPS
        if not rows or rows >= rows_at_once:
            continue
        said.append(
            f"stages.{number}: a step has {rows:.3g} rows of {format_length(trial.length)} for {rows_at_once} that "
            f"could be trained at once: {rows_at_once - rows:.3g} of {rows_at_once} places stand idle. Raise "
            f"tokens_per_step to {format_length(stage.length * rows_at_once)}, use fewer processes, or let them share "
            "rows (engine.context_parallel)"
        )
    return said


def token_lengths(source: TextSource) -> tuple[NDArray[np.int64], bool]:
    """(tokens of each document, whether they are estimated from a sample's tokens per character)."""
    known = source.documents.known_lengths
    if known is not None or source.size["characters"] <= COUNTED_CHARACTERS:
        return source.documents.lengths if known is None else known, False
    characters = np.array(source.documents.characters, dtype=np.int64)
    # Spread over the source, whose first documents may all be of one kind.
    numbers = np.linspace(0, len(characters) - 1, min(SAMPLED_DOCUMENTS, len(characters))).astype(int)
    tokens = sum(len(source.documents.ids(int(number))) for number in numbers)
    return np.round(characters * (tokens / max(1, characters[numbers].sum()))).astype(np.int64), True


def tried_rows(source: TextSource, length: int) -> tuple[float, float]:
    """(share of padding, share of documents that are cut) in the first rows of a length; the position stays."""
    tokens = padding = pieces = cut = 0
    rows = max(1, min(TRIED_ROWS, TRIED_TOKENS // length))
    for used in source.streams:
        stream: DocumentStream | FittedStream
        if isinstance(used, FittedStream):
            stream = FittedStream(used.documents, used.members, used.key, used.pad, used.whole)
        else:
            stream = DocumentStream(used.documents, used.members, used.key, used.width)
        numbers = {name: number for number, name in enumerate(used.documents.names)}
        for _ in range(rows):
            row = stream.take(length)
            # Padding is numbered after the documents that have names.
            sizes = np.bincount(row.documents, minlength=len(row.names) + 1)
            tokens, padding = tokens + length, padding + int(sizes[len(row.names)])
            for size, name in zip(sizes, row.names, strict=False):
                pieces += 1
                cut += int(size) < len(used.documents.ids(numbers[name]))
    return padding / tokens, cut / max(1, pieces)


def stage_tokens(curriculum: Curriculum, number: int) -> float:
    """Tokens that a stage will train, as far as it is known before."""
    goal = curriculum.goals[number]
    return goal if goal is not None else curriculum.steps[number] * curriculum.tokens_per_step
