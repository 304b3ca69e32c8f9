"""Dense copying: text that can only be predicted by looking back.

A model of this size does not learn to retrieve from a few planted lines alone; spans that repeat up to the end of the
sample show it, at nearly every byte, that looking back pays.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ropewalk.training.hemp.text import excerpt, span

SHORTEST, LONGEST = 8, 128
SHARE_TO_THE_END = 0.75


def copy_text(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """`length` characters: a span repeated to the end, or a long span that returns once after a gap."""
    # A span that returns needs room for two of at least the shortest and for a longer one to be drawn.
    if length < 4 * SHORTEST + 2:
        return excerpt(rng, texts, length)
    return (_repeated if rng.random() < SHARE_TO_THE_END else _returning)(rng, texts, length)


def _repeated(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """A span of 8 to 128 characters, short ones as often as long ones on a logarithmic scale, again and again."""
    before = rng.choice((0, 0, rng.randrange(length // 3)))
    longest = min(LONGEST, (length - before) // 2)
    size = round(SHORTEST * (longest / SHORTEST) ** rng.random())
    unit = span(rng, texts, size) + rng.choice(("", " ", "\n", ". "))
    return (excerpt(rng, texts, before) + unit * (length // len(unit) + 1))[:length]


def _returning(rng: random.Random, texts: Sequence[str], length: int) -> str:
    """A span of up to nearly half of the sample, a gap of any size, and the span once more at the very end."""
    unit = span(rng, texts, rng.randrange(SHORTEST, length // 2 - SHORTEST))
    room = length - 2 * len(unit)
    before = rng.randrange(room + 1)
    return excerpt(rng, texts, before) + unit + excerpt(rng, texts, room - before) + unit
