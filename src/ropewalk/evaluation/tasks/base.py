"""What every task kind is: a way to ask, and a filler to hide the answer in. Lengths and depths are handled here."""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from ropewalk.evaluation.tasks.haystack import Filler, Insert, Layout, Parts, count_sentences, lay_out
from ropewalk.evaluation.tasks.sample import Choice, Sample, Span
from ropewalk.evaluation.tasks.values import FORMS, Form, draw_wrong
from ropewalk.registry import Registry
from ropewalk.text import words
from ropewalk.text.encoder import Encoder, Frame, Piece

GRASS = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)


@dataclass(frozen=True)
class Question:
    """One row of a user's question file."""

    question: str
    answers: tuple[str, ...]
    document: str


@dataclass(frozen=True)
class Setting:
    """What one run asks of every task: tokenizer, frame, wording, seed, number of choices, the user's haystack."""

    encoder: Encoder
    frame: Frame
    template: str = "full"
    seed: int = 0
    num_choices: int = 8
    haystack: tuple[str, ...] | None = None
    haystack_name: str = "the haystack text"
    questions: tuple[Question, ...] = ()
    haystack_everywhere: bool = False


@dataclass(frozen=True)
class Ask:
    """One question about a haystack, before any length is known.

    `values` are the scored parts of the answer, joined by `joint`; `wrong` whole wrong answers for forced choice;
    `chance` the share of values that guessing gets right.
    """

    head: str
    inserts: tuple[tuple[str, float], ...]
    question: str
    lead: str
    values: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]
    chance: float
    depth: float | None = None
    joint: str = ","
    accepted: tuple[tuple[str, ...], ...] = ()


class Task(ABC):
    """One sample of a kind, for any length and depth.

    Everything random is drawn once for a sample, so cells that differ only in length or depth ask the same question in
    the same filler: they are compared pairwise, and share their text up to the needle.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    # Tasks of one group can be asked for together, under its name.
    group: ClassVar[str | None] = None
    by_depth: ClassVar[bool] = False
    least_sentences: ClassVar[int] = 2
    # How many answers the question itself offers; forced choice then chooses among these and no others.
    offered: ClassVar[int | None] = None
    templates: ClassVar[dict[str, dict[str, str]]]

    def __init__(self, setting: Setting, index: int) -> None:
        self.setting = setting
        self.index = index
        self.words = self.templates[setting.template]
        # By a string, which `random` hashes itself; the hash of a tuple differs from one process to the next.
        self.rng = random.Random(f"{setting.seed}/{self.name}/{index}")
        self.draw()
        self.filler = self._filler(self.sentences())
        rest = self.rest()
        self.rest_filler = None if rest is None else self._filler(rest)

    def _filler(self, sentences: Iterator[str]) -> Filler:
        return Filler(sentences, self.setting.encoder, source=self.filler_source())

    @abstractmethod
    def draw(self) -> None:
        """Draw whatever this sample needs from `self.rng`: values, keys, wrong answers."""

    @abstractmethod
    def sentences(self) -> Iterator[str]:
        """The filler's sentences in order, each with its own leading space or trailing line break."""

    def filler_source(self) -> str:
        """What runs out when a finite filler is too short, in words."""
        return self.setting.haystack_name

    def rest(self) -> Iterator[str] | None:
        """What fills the last gap, where the beginning of the next sentence would change the answer."""
        return None

    @abstractmethod
    def asks(self, depths: Sequence[float]) -> list[Ask]:
        """The questions, one or more for each depth; a task without depths ignores them."""

    def samples(self, length: int, depths: Sequence[float]) -> list[Sample]:
        """Samples of exactly `length` tokens."""
        # Different depths must be different places: n sentences have n + 1 of them.
        least = max(self.least_sentences, len(depths) - 1) if self.by_depth else self.least_sentences
        asks = self.asks(depths)
        answers = [self._answer(ask) for ask in asks]
        parts = [self._parts(ask, answer) for ask, answer in zip(asks, answers, strict=True)]
        # One number of sentences for all questions of this length: questions about one text must share it.
        fixed = max(part.tokens(self.setting.frame) for part in parts)
        count = count_sentences(self.name, length, fixed, self.filler, least)
        asked: Counter[float | None] = Counter()
        samples = []
        for ask, answer, part in zip(asks, answers, parts, strict=True):
            layout = lay_out(
                part,
                length=length,
                count=count,
                encoder=self.setting.encoder,
                frame=self.setting.frame,
                filler=self.filler,
                rest=self.rest_filler,
            )
            samples.append(self._sample(length, ask, answer, layout, query=asked[ask.depth]))
            asked[ask.depth] += 1
        return samples

    def _parts(self, ask: Ask, answer: Sequence[Span]) -> Parts:
        return Parts(
            head=self._head(ask.head),
            inserts=tuple(Insert(self._piece(text), depth) for text, depth in ask.inserts),
            question=self._piece(ask.question),
            # A chat model's answer begins a new message, where a leading space would be out of place.
            lead=self._piece(ask.lead.lstrip() if self.setting.frame.chat else ask.lead),
            answer_tokens=sum(len(span.ids) for span in answer),
        )

    def _sample(
        self, length: int, ask: Ask, answer: tuple[Span, ...], layout: Layout, *, query: int
    ) -> Sample:
        return Sample(
            task=self.name,
            length=length,
            depth=ask.depth,
            index=self.index,
            layout=layout,
            answer=answer,
            choices=tuple(self._choice(values, ask.joint) for values in ask.wrong),
            chance=ask.chance,
            template=self.setting.template,
            query=query,
        )

    def _head(self, text: str) -> Piece:
        # Tokenizers that put a space before a text put it before the first piece alone.
        begins = text and not self.setting.frame.before.text
        return Piece(text, self.setting.encoder.beginning(text)) if begins else self._piece(text)

    def _piece(self, text: str) -> Piece:
        return Piece(text, self.setting.encoder.ids(text) if text else ())

    def _answer(self, ask: Ask) -> tuple[Span, ...]:
        spans: list[Span] = []
        for number, value in enumerate(ask.values):
            if number:
                spans.append(Span(ask.joint, self.setting.encoder.ids(ask.joint), scored=False))
            accepted = ask.accepted[number] if ask.accepted else ()
            spans.append(Span(f" {value}", self.setting.encoder.ids(f" {value}"), accepted=accepted))
        return tuple(spans)

    def _choice(self, values: Sequence[str], joint: str) -> Choice:
        ids: tuple[int, ...] = ()
        for number, value in enumerate(values):
            ids += self.setting.encoder.ids(joint) if number else ()
            ids += self.setting.encoder.ids(f" {value}")
        return Choice(joint.join(f" {value}" for value in values), ids)

    def prose(self) -> Iterator[str]:
        """Sentences of the user's haystack where there is one, otherwise our own: short ones in the compact wording."""
        if self.setting.haystack is not None:
            return iter(self.setting.haystack)
        # A stream of its own, so that the text stays the same however many values were drawn before.
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/prose")
        write = words.sentence if self.setting.template == "full" else words.short_sentence
        return (f" {write(rng)}" for _ in itertools.count())

    def grass(self) -> Iterator[str]:
        """The passkey papers' endless refrain."""
        if self.setting.haystack is not None and self.setting.haystack_everywhere:
            return iter(self.setting.haystack)
        return (f" {text}" for text in itertools.cycle(GRASS))

    def fresh_wrong(self, right: str, form: Form) -> tuple[tuple[str, ...], ...]:
        """Wrong answers of the right one's form that stand nowhere in the text."""
        wrong = draw_wrong(self.setting.encoder, self.rng, right, form, self.setting.num_choices - 1)
        return tuple((value,) for value in wrong)

    def form(self, kind: str = "number") -> Form:
        """The values' form under the wording in use: shorter values where windows are short."""
        return FORMS[self.setting.template][kind]


# Lists begin with the tasks of our own, the easy ones first.
KINDS: Registry[type[Task]] = Registry(
    "retrieval task",
    folder="ropewalk.evaluation.tasks",
    group="ropewalk.tasks",
    first=(
        "passkey",
        "needle",
        "kv",
        "multi-needle",
        "distractors",
        "needle-packed",
        "bio",
        "bio-compare",
        "bio-order",
        "bio-count",
        "hidden-link",
        "graph",
        "mentions",
        "state",
        "doc-qa",
        "doc-qa-packed",
    ),
)
Kind = TypeVar("Kind", bound=type[Task])


def task(kind: Kind) -> Kind:
    """Register a class of tasks under its `name`."""
    KINDS.add(kind.name, kind)
    return kind
