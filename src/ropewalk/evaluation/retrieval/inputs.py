"""What a request asks of the retrieval tasks, with a user's own haystack and questions read."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.retrieval.run import Asking
from ropewalk.evaluation.tasks.base import Question
from ropewalk.text.corpus import read_documents


def asking_of(request: EvalRequest, lengths: Sequence[int]) -> Asking:
    """The request's tasks at these lengths."""
    return Asking(
        tasks=request.retrieval_tasks,
        lengths=lengths,
        depths=request.depths,
        samples=request.samples,
        seed=request.seed,
        grid=request.grid,
        haystack=haystack_of(request),
        questions=questions_of(request),
    )


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
