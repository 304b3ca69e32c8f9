"""The options that `eval` and `compare` share: one set of names and defaults, those of the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--text",
        metavar="FILE|DIR|DATASET",
        help="Text to measure loss on. Default: held-out library sources.",
    ),
    click.option(
        "--max-segments", type=int, default=8, show_default=True, help="At most this many pieces of text."
    ),
    click.option(
        "--join",
        type=click.Choice(["auto", "yes", "no"]),
        default="auto",
        show_default=True,
        help="Read all documents as one text; auto: only where none is long enough.",
    ),
    click.option(
        "--crop-stride",
        type=int,
        help="Step of the cropped control; 1 is the exact crop. Default: an eighth of the window.",
    ),
    click.option("--reference", metavar="MODEL", help="Who chooses the key tokens, with the same tokenizer."),
    click.option(
        "--key-gain",
        type=float,
        default=2.0,
        show_default=True,
        help="Nats that a key token gains from far context.",
    ),
    click.option(
        "--key-floor",
        type=float,
        default=-2.0,
        show_default=True,
        help="Least log-probability of a key token with it.",
    ),
    click.option("--depths", type=int, default=5, show_default=True, help="Depths of each retrieval length."),
    click.option("--samples", type=int, default=4, show_default=True, help="Samples of each retrieval cell."),
    click.option(
        "--scoring",
        type=click.Choice(["auto", "teacher-forced", "forced-choice", "generation"]),
        default="auto",
        show_default=True,
        help="How answers count. auto: as written; by choice for tasks of which the model writes no answer.",
    ),
    click.option(
        "--style",
        type=click.Choice(["auto", "completion", "chat"]),
        default="auto",
        show_default=True,
        help="Prompt style; auto: chat where the tokenizer has a template.",
    ),
    click.option("--haystack", metavar="FILE|DIR", help="Your own text around the needles."),
    click.option(
        "--questions", metavar="FILE.jsonl", help="Questions, answers and documents for the qa task."
    ),
    click.option("--chunk", type=int, help="Tokens of one forward. Default: by device."),
)


def measuring_options(function: Function) -> Function:
    """Text, controls, key tokens and questions."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def tasks_option(default: str) -> Callable[[Function], Function]:
    """What is measured; the defaults of `eval` and `compare` differ here alone."""
    return click.option(
        "--tasks",
        default=default,
        show_default=True,
        help="ppl (loss) and retrieval tasks: passkey, needle, kv, multi-needle, ruler, qa, ...",
    )


def grid_option(default: str) -> Callable[[Function], Function]:
    """How needles of several depths stand in a text."""
    return click.option(
        "--grid",
        type=click.Choice(["shared", "packed"]),
        default=default,
        show_default=True,
        help="packed: needles of all depths in one text (a harder, differently named task).",
    )
