"""Multi-document question answering over generated documents: what retrieval-augmented answering asks of a window.

Each document tells four things about one building; the question names the building in the document's own words and asks
for its builder. HELMET (arXiv 2410.02694) found this kind the best quick proxy of downstream use.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ropewalk.errors import UsageError
from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import alike
from ropewalk.text import words

BUILDINGS = (
    "abbey",
    "bakery",
    "bridge",
    "castle",
    "chapel",
    "harbour",
    "inn",
    "library",
    "mill",
    "museum",
    "tower",
)
# Documents whose builders are the wrong answers of a forced choice; short windows have room for fewer.
NEAR = {"full": 7, "compact": 3}


@task
class Documents(Task):
    """One building's document at a depth, among documents of the same form."""

    name = "doc-qa"
    group: ClassVar[str | None] = "harder"
    summary = "questions over many generated documents, by depth"
    by_depth = True
    templates = {  # noqa: RUF012
        "full": {
            "head": "Answer the question from the documents that follow, with a name alone.\n",
            "document": "Document: The {kind} of {place}. It was built in {year} by {name}. "
            "Its walls are {colour}, and a {thing} hangs over the door.\n",
            "question": "\nQuestion: Who built the {kind} of {place}?\n",
            "lead": "Answer:",
        },
        "compact": {
            "head": "Documents:\n",
            "document": "- The {colour} {kind} of {place}, by {name}.\n",
            "question": "\nWho built the {kind} of {place}?\n",
            "lead": "Answer:",
        },
    }

    def draw(self) -> None:
        self.draw_documents(1 + NEAR[self.setting.template])

    def draw_documents(self, count: int) -> None:
        """So many documents that are asked about or compete, and builders who stand nowhere in the text."""
        titles: dict[tuple[str, str], None] = {}
        while len(titles) < count:
            titles[self.rng.choice(BUILDINGS), self._place(self.rng)] = None
        wanted = count + self.setting.num_choices
        self.titles = list(titles)
        every = alike(self.setting.encoder, lambda: words.person(self.rng), wanted)
        self.builders, self.strangers = every[:count], every[count:]
        self.texts = [
            self._document(self.rng, title, name)
            for title, name in zip(self.titles, self.builders, strict=True)
        ]

    @staticmethod
    def _place(rng: random.Random) -> str:
        return f"{rng.choice(words.ADJECTIVES).title()} {rng.choice(words.PLACES)}"

    def _document(self, rng: random.Random, title: tuple[str, str], name: str) -> str:
        return self.words["document"].format(
            kind=title[0],
            place=title[1],
            name=name,
            year=rng.randrange(1200, 2000),
            colour=rng.choice(words.ADJECTIVES),
            thing=rng.choice(words.NOUNS),
        )

    def sentences(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/documents")
        used, builders = set(self.titles), {*self.builders, *self.strangers}
        for _ in itertools.count():
            title = (rng.choice(BUILDINGS), self._place(rng))
            name = words.person(rng)
            # Titles of very long texts repeat among the others, which is no harm; the one asked for stays alone.
            if title not in used and name not in builders:
                yield self._document(rng, title, name)

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        gold, *others = self.texts
        near = [(text, (number + 0.5) / len(others)) for number, text in enumerate(others)]
        return [self.ask(0, self.builders[1:], (*near, (gold, depth)), depth) for depth in depths]

    def ask(
        self, number: int, near: Sequence[str], inserts: Sequence[tuple[str, float]], depth: float
    ) -> Ask:
        """The question about document `number`; the builders of `near` documents are the first wrong answers."""
        kind, place = self.titles[number]
        wrong = [*near, *self.strangers][: self.setting.num_choices - 1]
        return Ask(
            head=self.words["head"],
            inserts=tuple(inserts),
            question=self.words["question"].format(kind=kind, place=place),
            lead=self.words["lead"],
            values=(self.builders[number],),
            wrong=tuple((name,) for name in wrong),
            chance=1 / (len(words.NAMES) * len(words.NOUNS)),
            depth=depth,
        )


@task
class PackedDocuments(Documents):
    """The documents of all depths in one text, each asked for: the text is read once for all of them."""

    name = "doc-qa-packed"
    # The grid asks for it, nobody by a group's name.
    group: ClassVar[str | None] = None
    summary = "the documents of all depths in one text, each asked for (`--grid packed`)"
    templates = Documents.templates
    max_documents = 16

    def draw(self) -> None:
        self.draw_documents(self.max_documents)

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        if len(depths) > self.max_documents:
            raise UsageError(
                f"{len(depths)} depths in one packed text, at most {self.max_documents} fit",
                hint="ask for fewer depths, or use the plain grid",
            )
        inserts = [(self.texts[number], depth) for number, depth in enumerate(depths)]
        asked = self.builders[: len(depths)]
        return [
            self.ask(number, [*asked[number + 1 :], *asked[:number]], inserts, depth)
            for number, depth in enumerate(depths)
        ]
