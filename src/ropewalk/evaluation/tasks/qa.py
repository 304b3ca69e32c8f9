"""Question answering over a user's own file, with the other rows' documents as distractors: the case of RAG."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.evaluation.tasks.base import Ask, Question, Task, task
from ropewalk.text.corpus import json_lines

QUESTION_KEYS = ("question", "query")
ANSWER_KEYS = ("answers", "answer")
DOCUMENT_KEYS = ("document", "context", "passage", "text")
MAX_FILE_BYTES = 1 << 30


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """Rows of a JSONL file: `{"question": ..., "answer": ... or "answers": [...], "document": ...}`."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {MAX_FILE_BYTES} bytes", hint="give a part of it")
        lines = json_lines(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise RopewalkError(
            f"cannot read {path} ({one_line(error.strerror or error)})", hint="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise RopewalkError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    rows = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len({row.document for row in rows}) < 2:
        raise RopewalkError(
            f"{path} holds {len(rows)} questions over fewer than two different documents",
            hint="give at least two: the others are the distractors",
        )
    return tuple(rows)


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RopewalkError(
            f"{where} is not JSON ({one_line(error)})", hint="write one JSON object a line"
        ) from error
    if not isinstance(row, dict):
        raise RopewalkError(
            f"{where} is not a JSON object", hint='write {"question": ..., "answer": ..., "document": ...}'
        )
    answers = _field(row, ANSWER_KEYS, where)
    listed = answers if isinstance(answers, list) else [answers]
    spelled = tuple(str(answer).strip() for answer in listed if isinstance(answer, str | int | float))
    if not spelled or not all(spelled):
        raise RopewalkError(
            f"{where} has no answer that is a text", hint='write "answer": "..." or "answers": ["..."]'
        )
    question, document = (_text(row, keys, where) for keys in (QUESTION_KEYS, DOCUMENT_KEYS))
    return Question(question=question, answers=spelled, document=document)


def _field(row: dict[str, Any], names: Sequence[str], where: str) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise RopewalkError(
        f"{where} has no {names[0]!r}", hint=f"name the field {' or '.join(repr(n) for n in names)}"
    )


def _text(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    value = _field(row, names, where)
    if not isinstance(value, str) or not value.strip():
        raise RopewalkError(f"{where}: {names[0]!r} is not a text", hint="write it as a string")
    return re.sub(r"\s+", " ", value).strip()


@task
class QuestionAnswering(Task):
    """One row's question over its document, which stands at a depth among other rows' documents."""

    name = "qa"
    summary = "questions over your own JSONL with distractor documents, by depth"
    by_depth = True
    least_sentences = 1
    templates = {  # noqa: RUF012
        "full": {
            "head": "Answer the question based on the given documents. Only give me the answer and do not output any "
            "other words.\nThe following are given documents.\n",
            "document": "Document: {text}\n",
            "question": "\nAnswer the question based on the given documents. Question: {question}\n",
            "lead": "Answer:",
        },
        "compact": {
            "head": "",
            "document": "- {text}\n",
            "question": "\nQuestion: {question}\n",
            "lead": "Answer:",
        },
    }

    def draw(self) -> None:
        rows = self.setting.questions
        if not rows:
            raise UsageError("task 'qa' needs questions", hint="give a JSONL file with --questions FILE")
        order = list(range(len(rows)))
        # One order for the whole run, not one a sample: no row is asked twice while another has not been asked.
        random.Random(f"{self.setting.seed}/{self.name}/rows").shuffle(order)
        self.row = rows[order[self.index % len(rows)]]
        distinct = dict.fromkeys(row.document for row in rows if row.document != self.row.document)
        self.distractors = list(distinct)
        self.rng.shuffle(self.distractors)
        right = {answer.casefold() for answer in self.row.answers}
        answers = dict.fromkeys(
            row.answers[0] for row in rows if not right & {a.casefold() for a in row.answers}
        )
        others = list(answers)
        self.rng.shuffle(others)
        self.wrong = tuple((answer,) for answer in others[: self.setting.num_choices - 1])

    def sentences(self) -> Iterator[str]:
        return (self.words["document"].format(text=document) for document in self.distractors)

    def filler_source(self) -> str:
        return f"the question file's other {len(self.distractors)} documents"

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        gold = self.words["document"].format(text=self.row.document)
        return [
            Ask(
                head=self.words["head"],
                inserts=((gold, depth),),
                question=self.words["question"].format(question=self.row.question),
                lead=self.words["lead"],
                values=(self.row.answers[0],),
                wrong=self.wrong,
                # Nobody knows how often a free answer is guessed; forced choice has a chance of its own.
                chance=0.0,
                depth=depth,
                accepted=(self.row.answers,),
            )
            for depth in depths
        ]
