"""Passkey retrieval (Mohtashami and Jaggi, arXiv 2305.16300): a number inside an endless refrain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ropewalk.evaluation.tasks.base import Ask, Task, task


@task
class Passkey(Task):
    """`The pass key is 48213.` hidden in `The grass is green. The sky is blue. ...`."""

    name = "passkey"
    summary = "a number inside an endless refrain, by depth"
    by_depth = True
    templates = {  # noqa: RUF012
        "full": {
            "head": "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
            "I will quiz you about the important information there.\n",
            "needle": " The pass key is {value}. Remember it. {value} is the pass key.",
            "question": "\nWhat is the pass key?",
            "lead": " The pass key is",
        },
        "compact": {
            "head": "",
            "needle": " The pass key is {value}.",
            "question": "\nWhat is the pass key?",
            "lead": " The pass key is",
        },
    }

    def draw(self) -> None:
        form = self.form("passkey")
        self.value = form.draw(self.rng)
        self.wrong = self.fresh_wrong(self.value, form)
        self.chance = 1 / form.possibilities

    def sentences(self) -> Iterator[str]:
        return self.grass()

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        needle = self.words["needle"].format(value=self.value)
        return [
            Ask(
                head=self.words["head"],
                inserts=((needle, depth),),
                question=self.words["question"],
                lead=self.words["lead"],
                values=(self.value,),
                wrong=self.wrong,
                chance=self.chance,
                depth=depth,
            )
            for depth in depths
        ]
