"""RULER's eight needle kinds (Hsieh et al., arXiv 2404.06654), from our own words. Depths are drawn per sample."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import Form, distinct_keys

FULL = {
    "head": "Some special magic {kind}s are hidden within the following text. Make sure to memorize them. I will quiz "
    "you about the {kind}s afterwards.\n",
    "needle": " One of the special magic {kind}s for {key} is: {value}.",
    "question": "\nWhat is the special magic {kind} for {keys} mentioned in the provided text?",
    "lead": " The special magic {kind} for {keys} mentioned in the provided text is",
    "questions": "\nWhat are all the special magic {kind}s for {keys} mentioned in the provided text, in order?",
    "leads": " The special magic {kind}s for {keys} mentioned in the provided text are",
}
COMPACT = {
    "head": "",
    "needle": " A {kind} of {key} is {value}.",
    "question": "\nWhat is the {kind} of {keys}?",
    "lead": " The {kind} of {keys} is",
    "questions": "\nWhat are the {kind}s of {keys}?",
    "leads": " The {kind}s of {keys} are",
}


class Niah(Task):
    """The family: `num_keys` needles with `num_values` values each, of which `num_queries` keys are asked for."""

    templates = {"full": FULL, "compact": COMPACT}  # noqa: RUF012
    haystack: ClassVar[str] = "prose"
    value_form: ClassVar[str] = "number"
    key_form: ClassVar[str] = "words"
    num_keys: ClassVar[int] = 1
    num_values: ClassVar[int] = 1
    num_queries: ClassVar[int] = 1

    def draw(self) -> None:
        self.kind = "number" if self.value_form == "number" else "code"
        self.value_shape = self.form(self.value_form)
        self.keys = self._keys(self.rng, self.num_keys)
        values = self.value_shape.distinct(self.rng, self.num_keys * self.num_values)
        self.values = [values[at : at + self.num_values] for at in range(0, len(values), self.num_values)]
        # Where several values are wanted they must come in an order that the text decides.
        self.places = [sorted(self.rng.random() for _ in range(self.num_values)) for _ in self.keys]
        self.wrong = self._wrong(self.value_shape)

    def _keys(self, rng: random.Random, count: int) -> list[str]:
        return (
            distinct_keys(rng, count) if self.key_form == "words" else self.form("uuid").distinct(rng, count)
        )

    def _wrong(self, form: Form) -> tuple[tuple[str, ...], ...]:
        wanted = self.num_queries * self.num_values
        right = self._answer_values()
        # Values of the keys that are not asked for stand in the text, so they are the hard wrong answers.
        unasked = [value for values in self.values[self.num_queries :] for value in values]
        wrong = [tuple(unasked[at : at + wanted]) for at in range(0, len(unasked) - wanted + 1, wanted)]
        for _ in range(self.setting.num_choices - 1 - len(wrong)):
            drawn = form.distinct(self.rng, wanted + len(right))
            wrong.append(tuple([value for value in drawn if value not in right][:wanted]))
        return tuple(wrong[: self.setting.num_choices - 1])

    def _answer_values(self) -> tuple[str, ...]:
        return tuple(value for values in self.values[: self.num_queries] for value in values)

    def sentences(self) -> Iterator[str]:
        if self.haystack == "grass":
            return self.grass()
        return self.prose() if self.haystack == "prose" else self._needles()

    def _needles(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/needles")
        taken = {*self.keys, *(value for values in self.values for value in values)}
        for _ in itertools.count():
            key, value = self._keys(rng, 1)[0], self.value_shape.draw(rng)
            if key not in taken and value not in taken:
                yield self._needle(key, value)

    def _needle(self, key: str, value: str) -> str:
        return self.words["needle"].format(kind=self.kind, key=key, value=value)

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        inserts = [
            (self._needle(key, value), place)
            for key, values, places in zip(self.keys, self.values, self.places, strict=True)
            for value, place in zip(values, places, strict=True)
        ]
        asked = ", ".join(self.keys[: self.num_queries])
        several = "s" if self.num_queries * self.num_values > 1 else ""
        return [
            Ask(
                head=self.words["head"].format(kind=self.kind),
                inserts=tuple(inserts),
                question=self.words[f"question{several}"].format(kind=self.kind, keys=asked),
                lead=self.words[f"lead{several}"].format(kind=self.kind, keys=asked),
                values=self._answer_values(),
                wrong=self.wrong,
                chance=1 / self.value_shape.possibilities,
            )
        ]


@task
class NiahSingle1(Niah):
    """One number in the refrain."""

    name = "niah_single_1"
    group = "ruler"
    summary = "RULER: one number in an endless refrain"
    haystack = "grass"


@task
class NiahSingle2(Niah):
    """One number in prose."""

    name = "niah_single_2"
    group = "ruler"
    summary = "RULER: one number in prose"


@task
class NiahSingle3(Niah):
    """One identifier in prose."""

    name = "niah_single_3"
    group = "ruler"
    summary = "RULER: one identifier in prose"
    value_form = "uuid"


@task
class NiahMultikey1(Niah):
    """Four numbers in prose, one asked for."""

    name = "niah_multikey_1"
    group = "ruler"
    summary = "RULER: four keys in prose, one asked for"
    num_keys = 4


@task
class NiahMultikey2(Niah):
    """Nothing but needles, one asked for."""

    name = "niah_multikey_2"
    group = "ruler"
    summary = "RULER: a text of nothing but needles"
    haystack = "needles"
    num_keys = 8


@task
class NiahMultikey3(Niah):
    """Nothing but needles, identifiers on both sides."""

    name = "niah_multikey_3"
    group = "ruler"
    summary = "RULER: nothing but needles, keys and values are identifiers"
    haystack = "needles"
    num_keys = 8
    key_form = "uuid"
    value_form = "uuid"


@task
class NiahMultivalue(Niah):
    """Four values of one key, all asked for."""

    name = "niah_multivalue"
    group = "ruler"
    summary = "RULER: four values of one key, all asked for"
    num_values = 4


@task
class NiahMultiquery(Niah):
    """Four keys with a value each, all asked for."""

    name = "niah_multiquery"
    group = "ruler"
    summary = "RULER: four keys, all asked for"
    num_keys = 4
    num_queries = 4
