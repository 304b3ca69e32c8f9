"""RULER's variable tracking: which names end up with a value, through assignments hidden in the refrain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.text import words

LINKS = 4


@task
class VariableTracking(Task):
    """`VAR ABC = 12345`, `VAR DEF = VAR ABC`, ...; then: which variables hold 12345? In the order of the text."""

    name = "vt"
    group = "ruler"
    summary = "RULER: follow four assignments through the text"
    templates = {  # noqa: RUF012
        "full": {
            "head": "Memorize and track the chain of variable assignments hidden in the following text.\n",
            "first": " VAR {name} = {value}.",
            "next": " VAR {name} = VAR {before}.",
            "question": "\nFind all variables that are assigned the value {value} in the text above, in the order in "
            "which they are assigned.",
            "lead": " The variables that are assigned the value {value} are",
        },
        "compact": {
            "head": "",
            "first": " VAR {name} = {value}.",
            "next": " VAR {name} = VAR {before}.",
            "question": "\nWhich variables are {value}?",
            "lead": " The variables are",
        },
    }

    def draw(self) -> None:
        self.value = self.form("passkey").draw(self.rng)
        chains = 2 * (LINKS + 1)
        names: dict[str, None] = {}
        letters = 5 if self.setting.template == "full" else 3
        while len(names) < chains + 7 * (LINKS + 1):
            names[words.coded_word(self.rng, letters).upper()] = None
        every = list(names)
        self.names, self.decoys = every[: LINKS + 1], every[LINKS + 1 : chains]
        self.decoy_value = next(
            v for v in iter(lambda: self.form("passkey").draw(self.rng), "") if v != self.value
        )
        self.places = sorted(self.rng.random() for _ in self.names)
        self.decoy_places = sorted(self.rng.random() for _ in self.decoys)
        strangers = every[chains:]
        # The decoy chain is the hardest wrong answer; the others are names from nowhere.
        wrong = [tuple(self.decoys)]
        wrong += [tuple(self.rng.sample(strangers, LINKS + 1)) for _ in range(self.setting.num_choices - 2)]
        self.wrong = tuple(wrong[: self.setting.num_choices - 1])

    def sentences(self) -> Iterator[str]:
        return self.grass()

    def _chain(self, names: Sequence[str], value: str, places: Sequence[float]) -> list[tuple[str, float]]:
        lines = [self.words["first"].format(name=names[0], value=value)]
        pairs = zip(names[1:], names[:-1], strict=True)
        lines += [self.words["next"].format(name=name, before=before) for name, before in pairs]
        return list(zip(lines, places, strict=True))

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        inserts = self._chain(self.names, self.value, self.places)
        inserts += self._chain(self.decoys, self.decoy_value, self.decoy_places)
        return [
            Ask(
                head=self.words["head"],
                inserts=tuple(inserts),
                question=self.words["question"].format(value=self.value),
                lead=self.words["lead"].format(value=self.value),
                values=tuple(self.names),
                wrong=self.wrong,
                # A guesser who sees the names takes one of the two chains' at each step.
                chance=1 / (2 * (LINKS + 1)),
            )
        ]
