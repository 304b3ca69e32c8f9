"""RULER's counting kinds: the most common words of a list, and the most frequent words of a coded text."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.text import words


@task
class CommonWords(Task):
    """Every block of the list holds each common word once and as many rare ones; which words are common?

    RULER fixes the counts (30 and 3) and scales the list; here each block repeats the common words, so a longer text
    shows the same words more often and shares its beginning with a shorter one.
    """

    name = "cwe"
    group = "ruler"
    summary = "RULER: the most common words of a list"
    least_sentences = 3
    num_common: ClassVar[dict[str, int]] = {"full": 10, "compact": 3}
    templates = {  # noqa: RUF012
        "full": {
            "head": "Below is a list of words, some of which appear much more often than the others. Memorize the ones "
            "that appear most often.\n",
            "question": "\nWhat are the {count} most common words in the above list, in the order in which they first "
            "appear?",
            "lead": " The {count} most common words in the list are",
        },
        "compact": {
            "head": "",
            "question": "\nWhich {count} words are most common?",
            "lead": " The most common words are",
        },
    }

    def draw(self) -> None:
        count = self.num_common[self.setting.template]
        drawn = self.rng.sample(words.NOUNS, len(words.NOUNS))
        self.common, self.rare = drawn[:count], drawn[count:]
        self.wrong = tuple(
            tuple(self.rng.sample(self.rare, count)) for _ in range(self.setting.num_choices - 1)
        )

    def sentences(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/blocks")
        rare = self._rare(rng)
        for number in itertools.count():
            block = list(self.common)
            others = [next(rare) for _ in block]
            mixed = [*block, *others]
            if number:
                rng.shuffle(mixed)
            else:
                # The first block decides the order of the answer: the common words in order, rare ones between.
                mixed = [word for pair in zip(block, others, strict=True) for word in pair]
            yield "".join(f" {word}" for word in mixed)

    def _rare(self, rng: random.Random) -> Iterator[str]:
        pool: list[str] = []
        while True:
            if not pool:
                pool = rng.sample(self.rare, len(self.rare))
            yield pool.pop()

    def rest(self) -> Iterator[str] | None:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/rest")
        return (f" {word}" for word in self._rare(rng))

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        count = len(self.common)
        return [
            Ask(
                head=self.words["head"],
                inserts=(),
                question=self.words["question"].format(count=count),
                lead=self.words["lead"].format(count=count),
                values=tuple(self.common),
                wrong=self.wrong,
                chance=count / len(words.NOUNS),
            )
        ]


@task
class FrequentWords(Task):
    """A coded text whose word of rank r appears about 1/r times as often as the first; which three lead?"""

    name = "fwe"
    group = "ruler"
    summary = "RULER: the three most frequent words of a coded text"
    least_sentences = 2
    # How often the words of rank 1, 2, ... stand in a block: Zipf's law with exponent 1, the tail cut.
    counts: ClassVar[dict[str, tuple[int, ...]]] = {
        "full": (18, 9, 6, 4, 3, 3, 2, 2, 2),
        "compact": (8, 5, 3, 1, 1),
    }
    templates = {  # noqa: RUF012
        "full": {
            "head": "Read the following coded text and track the frequency of each coded word. Find the three most "
            "frequently appeared coded words.\n",
            "question": "\nWhat are the three most frequently appeared words in the above coded text, most frequent "
            "first?",
            "lead": " The three most frequently appeared words are",
        },
        "compact": {
            "head": "",
            "question": "\nWhich three words are most frequent?",
            "lead": " The most frequent words are",
        },
    }

    def draw(self) -> None:
        letters = 6 if self.setting.template == "full" else 3
        ranks = len(self.counts[self.setting.template])
        drawn: dict[str, None] = {}
        while len(drawn) < ranks + 3 * self.setting.num_choices:
            drawn[words.coded_word(self.rng, letters)] = None
        every = list(drawn)
        self.letters, self.ranked, strangers = letters, every[:ranks], every[ranks:]
        wrong = [tuple(strangers[at : at + 3]) for at in range(0, 3 * (self.setting.num_choices - 1), 3)]
        # The right words in the wrong order, and the next ones in rank, are harder than strangers.
        first, second, third = self.ranked[:3]
        hard = [(second, first, third), tuple(self.ranked[-3:])]
        self.wrong = tuple((hard + wrong)[: self.setting.num_choices - 1])

    def sentences(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/blocks")
        counts = self.counts[self.setting.template]
        block = [word for word, count in zip(self.ranked, counts, strict=True) for _ in range(count)]
        while True:
            rng.shuffle(block)
            yield "".join(f" {word}" for word in block)

    def rest(self) -> Iterator[str] | None:
        # Words that stand only once cannot change the three leaders.
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/rest")
        fresh = (words.coded_word(rng, self.letters) for _ in itertools.count())
        return (f" {word}" for word in fresh if word not in self.ranked)

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        return [
            Ask(
                head=self.words["head"],
                inserts=(),
                question=self.words["question"],
                lead=self.words["lead"],
                values=tuple(self.ranked[:3]),
                wrong=self.wrong,
                chance=1 / len(self.ranked),
            )
        ]
