"""The values that tasks hide: numbers and identifiers of a fixed form, so that guessing has a known chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ropewalk.text import words
from ropewalk.text.encoder import Encoder


@dataclass(frozen=True)
class Form:
    """A number of `sizes[0]` digits, or hexadecimal groups of the given sizes."""

    kind: str
    sizes: tuple[int, ...]

    def draw(self, rng: random.Random) -> str:
        """One value, uniformly."""
        return (
            words.number(rng, self.sizes[0]) if self.kind == "number" else words.identifier(rng, self.sizes)
        )

    @property
    def possibilities(self) -> int:
        """How many different values there are; a blind guess is right one time in so many."""
        return 9 * int(10 ** (self.sizes[0] - 1)) if self.kind == "number" else int(16 ** sum(self.sizes))

    def distinct(self, rng: random.Random, count: int) -> list[str]:
        """`count` different values."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.draw(rng)] = None
        return list(found)


FORMS = {
    "full": {
        "number": Form("number", (7,)),
        "passkey": Form("number", (5,)),
        "uuid": Form("hex", (8, 4, 4, 4, 12)),
    },
    "compact": {"number": Form("number", (5,)), "passkey": Form("number", (5,)), "uuid": Form("hex", (8,))},
}


def draw_wrong(encoder: Encoder, rng: random.Random, right: str, form: Form, count: int) -> list[str]:
    """`count` distinct values other than `right`, of its number of tokens unless forty draws find none."""
    wrong: list[str] = []
    wanted = len(encoder.ids(f" {right}"))
    while len(wrong) < count:
        value = form.draw(rng)
        # A tokenizer may cut numbers into pieces that hardly any draw repeats; another length then beats no answer.
        for _ in range(40):
            if value != right and value not in wrong and len(encoder.ids(f" {value}")) == wanted:
                break
            value = form.draw(rng)
        if value != right and value not in wrong:
            wrong.append(value)
    return wrong


def alike(encoder: Encoder, draw: Callable[[], str], count: int) -> list[str]:
    """`count` different draws of one number of tokens, where a thousand draws hold them.

    To a model that knows nothing the shortest answer is the likeliest, so answers that compete are equally long.
    """
    by_size: dict[int, dict[str, None]] = {}
    for _ in range(1000):
        value = draw()
        found = by_size.setdefault(len(encoder.ids(f" {value}")), {})
        found[value] = None
        if len(found) == count:
            return list(found)
    every = sorted(by_size.items(), key=lambda item: -len(item[1]))
    return [value for _, values in every for value in values][:count]


def distinct_keys(rng: random.Random, count: int) -> list[str]:
    """`count` different two-word names."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[words.key(rng)] = None
    return list(found)
