"""Needles in prose: one by depth, several with every one asked for, one among near copies, and a whole grid packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ropewalk.errors import UsageError
from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import distinct_keys

TEMPLATES = {
    "full": {
        "head": "Some special magic numbers are hidden within the following text. Make sure to memorize them. "
        "I will quiz you about the numbers afterwards.\n",
        "needle": " The special magic number for {key} is {value}.",
        "question": "\nWhat is the special magic number for {key} mentioned in the text?",
        "lead": " The special magic number for {key} is",
    },
    "compact": {
        "head": "",
        "needle": " The number of {key} is {value}.",
        "question": "\nWhat is the number of {key}?",
        "lead": " The number of {key} is",
    },
}


@task
class Needle(Task):
    """One needle in prose."""

    name = "needle"
    summary = "a fact inside prose, by depth (needle in a haystack)"
    by_depth = True
    templates = TEMPLATES
    num_needles = 1

    def draw(self) -> None:
        form = self.form()
        self.keys = distinct_keys(self.rng, self.num_needles)
        self.values = form.distinct(self.rng, self.num_needles)
        self.wrong = [self.fresh_wrong(value, form) for value in self.values]
        self.chance = 1 / form.possibilities

    def sentences(self) -> Iterator[str]:
        return self.prose()

    def needle(self, number: int) -> str:
        """The sentence that hides value `number`."""
        return self.words["needle"].format(key=self.keys[number], value=self.values[number])

    def ask(self, number: int, inserts: Sequence[tuple[str, float]], depth: float | None) -> Ask:
        """The question for value `number`."""
        return Ask(
            head=self.words["head"],
            inserts=tuple(inserts),
            question=self.words["question"].format(key=self.keys[number]),
            lead=self.words["lead"].format(key=self.keys[number]),
            values=(self.values[number],),
            wrong=self.wrong[number],
            chance=self.chance,
            depth=depth,
        )

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        return [self.ask(0, [(self.needle(0), depth)], depth) for depth in depths]


@task
class MultiNeedle(Needle):
    """Four needles spread evenly over one text, each asked for in its own question."""

    name = "multi-needle"
    summary = "four facts inside prose, each asked for"
    by_depth = False
    num_needles = 4

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        places = [(2 * number + 1) / (2 * self.num_needles) for number in range(self.num_needles)]
        inserts = [(self.needle(number), place) for number, place in enumerate(places)]
        return [self.ask(number, inserts, place) for number, place in enumerate(places)]


@task
class Distractors(Needle):
    """One needle among near copies: the same sentence about other keys that share a word with the one asked for."""

    name = "distractors"
    summary = "a fact among four near copies, by depth"
    num_copies = 4
    templates = TEMPLATES

    def draw(self) -> None:
        super().draw()
        form = self.form()
        first, second = self.keys[0].split("-")
        others = [key for key in distinct_keys(self.rng, 40) if key != self.keys[0]]
        near = [f"{first}-{key.split('-')[1]}" for key in others] + [
            f"{key.split('-')[0]}-{second}" for key in others
        ]
        near = [key for key in dict.fromkeys(near) if key != self.keys[0]]
        self.near_keys = self.rng.sample(near, self.num_copies)
        # One more than wanted, in case the right value is among them.
        values = [value for value in form.distinct(self.rng, self.num_copies + 1) if value != self.values[0]]
        self.near_values = values[: self.num_copies]
        # The copies' values are the hardest wrong answers; fresh ones fill up to the number of choices.
        hard = tuple((value,) for value in self.near_values)
        self.wrong = [(hard + self.wrong[0])[: self.setting.num_choices - 1]]

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        pairs = zip(self.near_keys, self.near_values, strict=True)
        copies = [self.words["needle"].format(key=key, value=value) for key, value in pairs]
        spread = [(text, (number + 0.5) / self.num_copies) for number, text in enumerate(copies)]
        return [self.ask(0, [*spread, (self.needle(0), depth)], depth) for depth in depths]


@task
class PackedNeedle(Needle):
    """Needles of all depths in one text, each asked for: a harder task than the grid, and named differently."""

    name = "needle-packed"
    summary = "the needles of all depths in one text, each asked for (`--grid packed`)"
    max_needles = 64

    def draw(self) -> None:
        form = self.form()
        # All of them, however many depths are asked, so that depth n hides the same value in every grid.
        self.keys = distinct_keys(self.rng, self.max_needles)
        self.values = form.distinct(self.rng, self.max_needles)
        self.chance = 1 / form.possibilities

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        if len(depths) > self.max_needles:
            raise UsageError(
                f"{len(depths)} depths in one packed text, at most {self.max_needles} fit",
                hint="ask for fewer depths, or use the plain grid",
            )
        inserts = [(self.needle(number), depth) for number, depth in enumerate(depths)]
        self.wrong = [self._others(number, len(depths)) for number in range(len(depths))]
        return [self.ask(number, inserts, depth) for number, depth in enumerate(depths)]

    def _others(self, number: int, hidden: int) -> tuple[tuple[str, ...], ...]:
        # Values that are hidden in this text come first: they are the hard wrong answers.
        others = self.values[number + 1 : hidden] + self.values[:number] + self.values[hidden:]
        return tuple((value,) for value in others[: self.setting.num_choices - 1])
