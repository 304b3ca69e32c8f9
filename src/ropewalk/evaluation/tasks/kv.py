"""Key-value lookup: nothing but pairs, one of them asked for. Every other value in the text is a wrong answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import distinct_keys
from ropewalk.text import words

# Forced choice is only a lookup if the wrong answers stand in the text too, and all over it: a model that just likes
# what it read last must not win. Short windows have room for fewer.
NEAR = {"full": 7, "compact": 3}


@task
class KeyValue(Task):
    """`amber-lake: 48213` line by line; then `amber-lake:` once more."""

    name = "kv"
    summary = "key-value lookup among pairs, by depth"
    by_depth = True
    least_sentences = 4
    templates = {  # noqa: RUF012
        "full": {
            "head": "A list of names with their numbers follows. Remember the number of each name.\n",
            "needle": "{key}: {value}\n",
            "question": "\nWhich number belongs to {key}? Look it up in the list.\n",
            "lead": "{key}:",
        },
        "compact": {
            "head": "",
            "needle": "{key}: {value}\n",
            "question": "\nLook up {key}.\n",
            "lead": "{key}:",
        },
    }

    def draw(self) -> None:
        form = self.form("passkey")
        near_lines = NEAR[self.setting.template]
        self.key, *self.other_keys = distinct_keys(self.rng, 1 + near_lines)
        self.value, *self.other_values = form.distinct(self.rng, 1 + near_lines)
        missing = self.setting.num_choices - 1 - near_lines
        fresh = self.fresh_wrong(self.value, form)[: max(0, missing)]
        near = tuple((value,) for value in self.other_values[: self.setting.num_choices - 1])
        self.wrong = near + fresh
        self.chance = 1 / form.possibilities

    def sentences(self) -> Iterator[str]:
        line = self.words["needle"]
        form = self.form("passkey")
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/pairs")
        used = {self.key, *self.other_keys}
        for number in itertools.count():
            # Fifty thousand names run out in very long texts; a number then makes them new.
            key = words.key(rng) if number < 20_000 else f"{words.key(rng)}-{number}"
            if key in used:
                continue
            used.add(key)
            yield line.format(key=key, value=form.draw(rng))

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        line = self.words["needle"]
        needle = line.format(key=self.key, value=self.value)
        pairs = zip(self.other_keys, self.other_values, strict=True)
        near = tuple(
            (line.format(key=key, value=value), (number + 0.5) / len(self.other_keys))
            for number, (key, value) in enumerate(pairs)
        )
        return [
            Ask(
                head=self.words["head"],
                inserts=(*near, (needle, depth)),
                question=self.words["question"].format(key=self.key),
                lead=self.words["lead"].format(key=self.key),
                values=(self.value,),
                wrong=self.wrong,
                chance=self.chance,
                depth=depth,
            )
            for depth in depths
        ]
