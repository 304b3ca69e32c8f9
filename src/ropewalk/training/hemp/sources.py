"""The generated training text of hemp as sources that a recipe can name: hemp-copy, hemp-planted, hemp-tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.evaluation.tasks import TokenizerEncoder, text_sample
from ropewalk.text.generators import source
from ropewalk.training.hemp.copying import copy_text
from ropewalk.training.hemp.planted import planted_spans
from ropewalk.training.hemp.text import excerpt, library_texts

TASKS = ("passkey", "kv", "needle", "multi-needle")
TEMPLATES = ("compact", "compact", "full")
SHORTEST_TASK = 192
SHORTEST_FULL_TASK = 320

Weighted = tuple[list[int], list[float]]
Maker = Callable[[random.Random, Sequence[str], int], str]


def _draw(rng: np.random.Generator) -> random.Random:
    # The words are drawn by Python's generator, seeded by one number of the row's own: row n stays the same row.
    return random.Random(int(rng.integers(2**63)))


def _made(maker: Maker, rng: np.random.Generator, tokenizer: Any, length: int) -> list[int]:
    """A made text as tokens: `length` characters are at most `length` tokens, since the texts are ASCII."""
    text = maker(_draw(rng), library_texts(), length)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids[:length]


@source("hemp-copy")
def hemp_copy(rng: np.random.Generator, tokenizer: Any, length: int) -> list[int]:
    """Spans that repeat up to the end of the sample."""
    return _made(copy_text, rng, tokenizer, length)


@source("hemp-planted")
def hemp_planted(
    rng: np.random.Generator, tokenizer: Any, length: int, dense: float = 0.125, answer_weight: float = 1.0
) -> Weighted:
    """Key lines planted in filler and asked for at the end, in many phrasings; `dense` is the share without filler.

    `answer_weight` is the weight of an answer's tokens in the loss; all others weigh 1. It needs one token a byte.
    """
    text, spans = planted_spans(_draw(rng), library_texts(), length, dense)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    weights = [1.0] * len(ids)
    if answer_weight != 1.0:
        if len(ids) != len(text):
            raise UsageError(
                "answer_weight needs one token a byte", hint="use hemp's tokenizer, or leave it out"
            )
        for start, end in spans:
            weights[start:end] = [answer_weight] * (end - start)
    return ids[:length], weights[:length]


@source("hemp-tasks")
def hemp_tasks(
    rng: np.random.Generator,
    tokenizer: Any,
    length: int,
    tasks: list[str] | None = None,
    answer_weight: float = 1.0,
    edges: float = 0.0,
) -> Weighted:
    """The evaluation's own tasks, drawn with seeds of their own, at any length that fits and any depth.

    `tasks` are drawn evenly; a task named twice comes twice as often. A share of `edges` hides its fact at the very
    beginning or end, the other depths are uniform. `answer_weight` is as in `hemp_planted`.
    """
    for name in tasks or ():
        if name not in TASKS:
            raise UsageError(f"hemp-tasks does not teach {name!r}", hint=f"it teaches {', '.join(TASKS)}")
    drawn = _draw(rng)
    if length < SHORTEST_TASK:
        rest = _made(excerpt, rng, tokenizer, length)
        return rest, [1.0] * len(rest)
    name = drawn.choice(tasks or TASKS)
    budget = length if drawn.random() < 0.6 else drawn.randrange(SHORTEST_TASK, length + 1)
    template = drawn.choice(TEMPLATES) if budget > SHORTEST_FULL_TASK else "compact"
    encoder = TokenizerEncoder(tokenizer)
    depth = drawn.choice((0.0, 1.0)) if edges and drawn.random() < edges else None
    try:
        # One token is kept for the newline that ends the answer.
        sample = text_sample(name, drawn, budget=budget - 1, encoder=encoder, template=template, depth=depth)
    except UsageError:
        # The budget was too short for the task that was drawn: the passkey needs least.
        sample = text_sample("passkey", drawn, budget=budget - 1, encoder=encoder)
    prompt = tokenizer.encode(sample.text, add_special_tokens=False)
    answer = tokenizer.encode(sample.answer, add_special_tokens=False)
    end = tokenizer.encode("\n", add_special_tokens=False)
    weights = [1.0] * len(prompt) + [answer_weight] * len(answer) + [1.0] * len(end)
    return [*prompt, *answer, *end][:length], weights[:length]
