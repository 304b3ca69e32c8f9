"""Building blocks of hemp's generated training text: excerpts, filler, and spans worth copying."""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Sequence

from ropewalk.evaluation.tasks.base import GRASS
from ropewalk.text import words

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "

# In a large alphabet one byte of a random span finds its place in the repetition; that teaches looking back first.
ALPHABETS = {
    PRINTABLE: 0.5,
    string.ascii_letters + string.digits: 0.2,
    string.ascii_lowercase: 0.12,
    string.digits: 0.12,
    "0123456789abcdef": 0.06,
}
VOCABULARY = (words.NOUNS, words.ADJECTIVES, words.VERBS, words.PLACES)


@functools.cache
def library_texts() -> tuple[str, ...]:
    """The training half of the standard library, as far as it is ASCII: one character is one byte there."""
    from ropewalk.text.corpus import training_documents

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
    if kind < 0.6:
        [alphabet] = rng.choices(list(ALPHABETS), weights=list(ALPHABETS.values()))
        return "".join(rng.choices(alphabet, k=length))
    if kind < 0.8:
        joint = rng.choice((" ", "-", ", ", "\n"))
        return joint.join(rng.choice(rng.choice(VOCABULARY)) for _ in range(length // 3 + 1))[:length]
    return excerpt(rng, texts, length)
