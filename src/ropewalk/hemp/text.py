"""Building blocks of hemp's generated training text: excerpts, filler, and spans worth copying."""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Sequence

from ropewalk.evaluation import words
from ropewalk.evaluation.tasks.base import GRASS

ALPHABETS = (
    string.ascii_lowercase,
    string.digits,
    "0123456789abcdef",
    string.ascii_letters + string.digits,
    string.ascii_letters + string.digits + string.punctuation + " ",
)
VOCABULARY = (words.NOUNS, words.ADJECTIVES, words.VERBS, words.PLACES)


@functools.cache
def library_texts() -> tuple[str, ...]:
    """The training half of the standard library, as far as it is ASCII: one character is one byte there."""
    from ropewalk.evaluation.corpus import training_documents

    return tuple(item.text for item in training_documents() if item.text.isascii() and len(item.text) >= 64)


def excerpt(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """`length` characters from a random place of a random text; short texts follow one another."""
    pieces: list[str] = []
    missing = length
    while missing > 0:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - missing))
        pieces.append(text[start : start + missing])
        missing -= len(pieces[-1])
    return "".join(pieces)


def salad(rng: random.Random, length: int) -> str:
    """`length` characters of sentences about nothing, of the same kind as the evaluation's prose."""
    sentences: list[str] = []
    size = 0
    while size < length:
        sentences.append(words.sentence(rng))
        size += len(sentences[-1]) + 1
    return " ".join([*sentences, ""])[:length]


def grass(rng: random.Random, length: int) -> str:
    """`length` characters of the passkey papers' refrain, from a random place."""
    refrain = " ".join([*GRASS, ""])
    start = rng.randrange(len(refrain))
    return (refrain * (length // len(refrain) + 2))[start : start + length]


def filler(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """`length` characters to hide something in: the refrain, prose, or a text."""
    kind = rng.random()
    if kind < 0.3:
        return grass(rng, length)
    return salad(rng, length) if kind < 0.65 else excerpt(rng, texts, length)


def span(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """`length` characters worth copying: random characters, words in random order, or a text."""
    kind = rng.random()
    if kind < 0.45:
        return "".join(rng.choices(rng.choice(ALPHABETS), k=length))
    if kind < 0.7:
        joint = rng.choice((" ", "-", ", ", "\n"))
        return joint.join(rng.choice(rng.choice(VOCABULARY)) for _ in range(length // 3 + 1))[:length]
    return excerpt(rng, texts, length)
