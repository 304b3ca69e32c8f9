"""One question with its answer, as the scorers read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ropewalk.evaluation.tasks.haystack import IdArray, Layout


@dataclass(frozen=True)
class Span:
    """A part of the answer. Scored spans count; the others (commas between values) only stand between them."""

    text: str
    ids: tuple[int, ...]
    scored: bool = True
    accepted: tuple[str, ...] = ()

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a generated answer may say instead of the exact tokens."""
        return self.accepted or (self.text.strip(),)


@dataclass(frozen=True)
class Choice:
    """A wrong answer, for forced choice."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One cell's question. `length` counts prompt, question and answer; `depth` is the one asked for.

    `chance` is the share of scored spans that a guesser who knows the form of the answer gets right.
    """

    task: str
    length: int
    depth: float | None
    index: int
    layout: Layout
    answer: tuple[Span, ...]
    choices: tuple[Choice, ...]
    chance: float
    template: str
    query: int = 0

    @cached_property
    def key(self) -> tuple[str, int, float | None, int, int]:
        """What names this sample within a run."""
        return (self.task, self.length, self.depth, self.index, self.query)

    @property
    def prompt_ids(self) -> IdArray:
        """The prompt's tokens, put together anew on each reading."""
        return self.layout.ids()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """All tokens of the answer, the unscored ones between the values included."""
        return tuple(token for span in self.answer for token in span.ids)

    @property
    def answer_text(self) -> str:
        """The answer as it continues the prompt."""
        return "".join(span.text for span in self.answer)

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return self.layout.text()

    @property
    def content(self) -> str:
        """The prompt as a chat user would write it."""
        return self.layout.content()


@dataclass(frozen=True)
class TextSample:
    """Plain text for training or showing: `text` continues with `answer`."""

    text: str
    answer: str
    depth: float | None
