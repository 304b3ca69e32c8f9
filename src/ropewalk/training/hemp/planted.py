"""Key lines planted in filler and asked for at the end: many phrasings, the evaluation's own among them."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.text import words
from ropewalk.training.hemp.text import excerpt, filler


@dataclass(frozen=True)
class Phrasing:
    """One way to state a fact and to ask for it again. Without `{key}` a sample holds one fact only."""

    fact: str
    question: str
    joint: str = " "

    @property
    def has_key(self) -> bool:
        """Whether several facts can stand side by side."""
        return "{key}" in self.fact


PHRASINGS = (
    Phrasing(
        "The pass key is {value}. Remember it. {value} is the pass key.",
        "\nWhat is the pass key? The pass key is {value}.",
    ),
    Phrasing("The pass key is {value}.", "\nWhat is the pass key? The pass key is {value}."),
    Phrasing("{key}: {value}", "\nLook up {key}.\n{key}: {value}", joint="\n"),
    Phrasing(
        "{key}: {value}",
        "\nWhich number belongs to {key}? Look it up in the list.\n{key}: {value}",
        joint="\n",
    ),
    Phrasing("{key}: {value}", "\n{key}: {value}", joint="\n"),
    Phrasing('"{key}": "{value}"', '\n"{key}": "{value}"', joint=", "),
    Phrasing("{key} = {value}", "\n{key} = {value}", joint="\n"),
    Phrasing("line {key}: REGISTER is <{value}>", "\nREGISTER of line {key} is <{value}>", joint="\n"),
    Phrasing(
        "The special magic number for {key} is {value}.",
        "\nWhat is the special magic number for {key} mentioned in the text? "
        "The special magic number for {key} is {value}.",
    ),
    Phrasing(
        "The number of {key} is {value}.", "\nWhat is the number of {key}? The number of {key} is {value}."
    ),
    Phrasing("The secret of {key} is {value}.", "\nThe secret of {key} is {value}."),
)


def make_key(rng: random.Random) -> str:
    """What a fact is filed under; two-word names, as the evaluation has them, half of the time."""
    kind = rng.random()
    if kind < 0.5:
        return words.key(rng)
    if kind < 0.65:
        return rng.choice(words.PLACES)
    if kind < 0.8:
        return f"{rng.choice(words.NOUNS)}{rng.randrange(100)}"
    return "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randrange(4, 9)))


def make_value(rng: random.Random) -> str:
    """A value that nobody can guess: a number, most often, or letters."""
    kind = rng.random()
    if kind < 0.65:
        return words.number(rng, rng.choice((4, 5, 5, 5, 6, 7, 7, 8)))
    if kind < 0.8:
        return words.identifier(rng, (rng.choice((4, 6, 8, 8)),))
    return words.coded_word(rng, rng.randrange(4, 9)) if kind < 0.9 else words.key(rng)


Spans = list[tuple[int, int]]


def planted_spans(
    rng: random.Random, texts: Sequence[str], length: int, dense: float = 0.125
) -> tuple[str, Spans]:
    """`length` characters: 1 to 8 facts at random places of some filler, then questions up to the last character.

    A share of `dense` of the samples with keys hold as many facts as fit, half of those with facts of one form: a key
    is then only found by all of its letters. Where nothing fits, a plain excerpt is the answer. The spans say where
    the answers stand, from start to end.
    """
    phrasing = rng.choice(PHRASINGS)
    crowded = phrasing.has_key and rng.random() < dense
    # In short samples that is more than fits: the loop below takes facts away until there is room.
    count = 20 if crowded else rng.choice((2, 3, 3, 4, 5, 8)) if phrasing.has_key else 1
    if crowded and rng.random() < 0.5:
        pairs = {words.key(rng): words.number(rng, 5) for _ in range(count)}
    else:
        pairs = {make_key(rng): make_value(rng) for _ in range(count)}
    while pairs:
        asked = rng.sample(list(pairs), k=rng.randrange(1, min(5, len(pairs)) + 1))
        ending, spans = "", list[tuple[int, int]]()
        lead, _, close = phrasing.question.partition("{value}")
        for key in asked:
            ending += lead.format(key=key)
            spans.append((len(ending), len(ending) + len(pairs[key])))
            ending += pairs[key] + close.format(key=key)
        ending += "\n"
        facts = [phrasing.fact.format(key=key, value=value) for key, value in pairs.items()]
        room = length - len(ending) - sum(len(fact) + 2 * len(phrasing.joint) for fact in facts)
        if room >= 0:
            hay = rng.randrange(room + 1) if rng.random() < 0.2 else room
            body = _scatter(rng, facts, filler(rng, texts, hay), phrasing.joint)
            before = excerpt(rng, texts, room - hay) + body
            return before + ending, [(len(before) + start, len(before) + end) for start, end in spans]
        pairs.popitem()
    return excerpt(rng, texts, length), []


def _scatter(rng: random.Random, facts: Sequence[str], hay: str, joint: str) -> str:
    """The facts at random cuts of the filler, each between two joints."""
    cuts = sorted(rng.randrange(len(hay) + 1) for _ in facts)
    parts, last = [], 0
    for cut, fact in zip(cuts, facts, strict=True):
        parts.append(f"{hay[last:cut]}{joint}{fact}{joint}")
        last = cut
    return "".join([*parts, hay[last:]])
