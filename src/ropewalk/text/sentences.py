"""A user's own text cut into sentences, character by character the same when put together again."""

from __future__ import annotations

import re
from collections.abc import Iterable

# After a full stop before a space (which then begins the next sentence, as needles do), or after line breaks.
_ENDS = re.compile(r"(?<=[.!?])(?= )|(?<=\n)(?!\n)")
# A line of data may hold no sentence end at all; depths need places.
LONGEST = 400


def sentences_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The sentences of one text after another; a text that does not end its line gets a line break.

    >>> sentences_of(["One. Two!", "Three\\nfour"])
    ('One.', ' Two!\\n', 'Three\\n', 'four\\n')
    """
    found: list[str] = []
    for text in texts:
        whole = text.replace("\r\n", "\n")
        whole = whole if whole.endswith("\n") else f"{whole}\n"
        for sentence in _ENDS.split(whole):
            found += _short(sentence)
    return tuple(found)


def _short(sentence: str) -> list[str]:
    parts = []
    while len(sentence) > LONGEST:
        # Not at 0: the space that a sentence begins with would be cut off for ever.
        at = sentence.rfind(" ", 1, LONGEST)
        at = at if at > 0 else LONGEST
        parts.append(sentence[:at])
        sentence = sentence[at:]
    return [*parts, sentence] if sentence else parts
