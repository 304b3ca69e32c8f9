"""Fictional lives in a haystack of fictional lives (the kind of LongBioBench, arXiv 2506.02921, from our own words).

The haystack is seamless: nothing but what is asked tells the wanted lives from the others. One fact is looked up
(`bio`), several are compared (`bio-compare`), sorted (`bio-order`) or counted (`bio-count`): the same text, more to do.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import alike
from ropewalk.text import words

PETS = (
    "badger",
    "beagle",
    "canary",
    "donkey",
    "ferret",
    "goose",
    "lizard",
    "parrot",
    "pony",
    "rabbit",
    "tortoise",
)
COUNTS = ("1", "2", "3", "4", "5", "6")
YEARS = range(1200, 2000)
COMPARED = 4
BORN_WHEN = "Lives of many people follow. Remember who was born when.\n"


class Biographies(Task):
    """What the four kinds share: who lives in the text, and how a life reads."""

    least_sentences = 2
    lives: ClassVar[dict[str, str]] = {
        "full": " {name}, born in {year}, worked in {place} and kept a {pet}.",
        "compact": " {name}, born {year}, kept a {pet}.",
    }
    # How many people the question is about, and what must not stand in the rest of the text.
    num_people: ClassVar[int] = 1

    def draw(self) -> None:
        self.people = self._distinct_people(self.num_people)
        self.years = self.rng.sample(YEARS, len(self.people))
        self.pets = [self.rng.choice(PETS) for _ in self.people]
        self.places = sorted(self.rng.random() for _ in self.people)

    def _distinct_people(self, count: int) -> list[str]:
        return alike(self.setting.encoder, lambda: words.person(self.rng), count)

    def life(self, name: str, year: int, pet: str, rng: random.Random) -> str:
        """One person's sentence."""
        place = rng.choice(words.PLACES)
        return self.lives[self.setting.template].format(name=name, year=year, pet=pet, place=place)

    def told(self) -> list[str]:
        """The sentences of the people that are asked about, in the order of `people`."""
        # Begun anew on each call, since every length and depth tells the same lives.
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/places")
        rows = zip(self.people, self.years, self.pets, strict=True)
        return [self.life(name, year, pet, rng) for name, year, pet in rows]

    def spread(
        self, values: Sequence[str], wrong: Sequence[Sequence[str]], chance: float, **about: str
    ) -> Ask:
        """One question over lives at random places; `about` fills the wording."""
        return Ask(
            head=self.words["head"],
            inserts=tuple(zip(self.told(), self.places, strict=True)),
            question=self.words["question"].format(**about),
            lead=self.words["lead"].format(**about),
            values=tuple(values),
            wrong=tuple(tuple(answer) for answer in wrong[: self.setting.num_choices - 1]),
            chance=chance,
        )

    def strangers_pets(self) -> tuple[str, ...]:
        """What the others in the text may keep."""
        return PETS

    def sentences(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/lives")
        pets, used = self.strangers_pets(), set(self.people)
        for number in itertools.count():
            # Thirty thousand names run out in very long texts; a second surname then makes them new.
            name = words.person(rng)
            name = name if number < 15_000 else f"{name}-{rng.choice(words.NOUNS).title()}"
            if name not in used:
                used.add(name)
                yield self.life(name, rng.choice(YEARS), rng.choice(pets), rng)


@task
class Biography(Biographies):
    """One life, one fact: the year of a birth. Years of other lives in the text are the wrong answers."""

    name = "bio"
    group = "harder"
    summary = "one fact of one life among lives, by depth"
    by_depth = True
    num_people = 4
    templates = {  # noqa: RUF012
        "full": {
            "head": BORN_WHEN,
            "question": "\nIn which year was {name} born?",
            "lead": " {name} was born in",
        },
        "compact": {"head": "", "question": "\nWhen was {name} born?", "lead": " {name} was born"},
    }

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        wanted, *others = self.told()
        # Evenly over the text, at neither end: a model that likes what it read last must not win.
        near = [(text, (number + 0.5) / len(others)) for number, text in enumerate(others)]
        wrong = [*self.years[1:], *self.rng.sample([year for year in YEARS if year not in self.years], 40)]
        name = self.people[0]
        return [
            Ask(
                head=self.words["head"],
                inserts=(*near, (wanted, depth)),
                question=self.words["question"].format(name=name),
                lead=self.words["lead"].format(name=name),
                values=(str(self.years[0]),),
                wrong=tuple((str(year),) for year in wrong[: self.setting.num_choices - 1]),
                chance=1 / len(YEARS),
                depth=depth,
            )
            for depth in depths
        ]


@task
class Compare(Biographies):
    """Who of four was born first: four facts found, one comparison. The answers are the four in the question."""

    name = "bio-compare"
    group = "harder"
    summary = "who of four was born first, among lives"
    num_people = COMPARED
    offered: ClassVar[int | None] = COMPARED
    templates = {  # noqa: RUF012
        "full": {
            "head": BORN_WHEN,
            "question": "\nWho was born first: {names}?",
            "lead": " The first to be born was",
        },
        "compact": {"head": "", "question": "\nWho was born first: {names}?", "lead": " First was"},
    }

    def listed(self) -> list[str]:
        """The people in the order of the question, which says nothing about their years."""
        return sorted(self.people)

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        first = self.people[self.years.index(min(self.years))]
        others = [name for name in self.listed() if name != first]
        names = ", ".join(self.listed())
        return [self.spread((first,), [(name,) for name in others], 1 / COMPARED, names=names)]


@task
class Order(Compare):
    """The same four in the order of their births: every other order is a wrong answer."""

    name = "bio-order"
    group = "harder"
    summary = "four people in the order of their births, among lives"
    offered = None
    templates = {  # noqa: RUF012
        "full": {
            "head": BORN_WHEN,
            "question": "\nName these people in the order of their births: {names}.",
            "lead": " In the order of their births:",
        },
        "compact": {"head": "", "question": "\nOrder by birth: {names}.", "lead": " By birth:"},
    }

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        by_birth = tuple(name for _, name in sorted(zip(self.years, self.people, strict=True)))
        orders = [order for order in itertools.permutations(self.listed()) if order != by_birth]
        wrong = self.rng.sample(orders, min(len(orders), self.setting.num_choices - 1))
        # With the names before it given, a guesser has four, three, two and one left to choose from.
        chance = sum(1 / left for left in range(1, COMPARED + 1)) / COMPARED
        return [self.spread(by_birth, wrong, chance, names=", ".join(self.listed()))]


@task
class Count(Biographies):
    """How many people keep one kind of animal, which nobody else in the text keeps. The question offers six numbers."""

    name = "bio-count"
    group = "harder"
    summary = "how many people share a trait, among lives"
    offered = len(COUNTS)
    templates = {  # noqa: RUF012
        "full": {
            "head": "Lives of many people follow. Remember who kept which animal.\n",
            "question": "\nHow many people kept a {pet}: 1, 2, 3, 4, 5 or 6?",
            "lead": " The number of people who kept a {pet} is",
        },
        "compact": {
            "head": "",
            "question": "\nHow many kept a {pet}: 1, 2, 3, 4, 5 or 6?",
            "lead": " A {pet} was kept by",
        },
    }

    def draw(self) -> None:
        self.num = self.rng.randrange(1, len(COUNTS) + 1)
        self.people = self._distinct_people(self.num)
        self.years = [self.rng.choice(YEARS) for _ in self.people]
        self.pets = [self.rng.choice(PETS)] * self.num
        self.places = sorted(self.rng.random() for _ in self.people)

    def strangers_pets(self) -> tuple[str, ...]:
        return tuple(pet for pet in PETS if pet != self.pets[0])

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        right, pet = COUNTS[self.num - 1], self.pets[0]
        wrong = [(count,) for count in COUNTS if count != right]
        return [self.spread((right,), wrong, 1 / len(COUNTS), pet=pet)]
