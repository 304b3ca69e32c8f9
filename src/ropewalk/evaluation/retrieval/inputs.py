"""A user's own haystack and questions, read for the retrieval tasks."""

from __future__ import annotations

from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.tasks.base import Question
from ropewalk.text.corpus import read_documents


def haystack_of(request: EvalRequest) -> list[str] | None:
    """The texts between which things are hidden, or None for the built-in ones."""
    if request.haystack is None:
        return None
    return [document.text for document in read_documents(request.haystack)]


def questions_of(request: EvalRequest) -> tuple[Question, ...]:
    """The rows of the question file of the `qa` task."""
    if request.questions is None:
        return ()
    from ropewalk.evaluation.tasks.qa import read_questions

    return tuple(read_questions(request.questions))
