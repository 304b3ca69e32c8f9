"""Loss by length from a server that gives the log probabilities of the prompt itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.served.endpoint import TooLongError, UnsupportedError
from ropewalk.evaluation.served.server import Server, no_choice
from ropewalk.text.corpus import Document

_PROBE_TEXT = "The river runs past the old mill and down to the sea."
# The server counts tokens only after the fact, so the longest length is met from below, to within this share.
CLOSE = 0.95
# Log probabilities of 0 come out a little above it.
_ROUNDING = 1e-3
Losses = list[float]


@dataclass(frozen=True)
class Way:
    """One spelling of the request: `echo` (OpenAI, many others), or vLLM's own `prompt_logprobs`."""

    name: str
    options: dict[str, Any]

    def losses(self, choice: dict[str, Any]) -> Losses | None:
        """-ln p of every prompt token but the first, or None where the server left them out."""
        told = self._told(choice)
        if (
            told is None
            or len(told) < 2
            or not all(isinstance(value, int | float) and math.isfinite(value) for value in told[1:])
        ):
            return None
        highest = max(told[1:])
        # Probabilities in the place of their logarithms would be perplexities below 1.
        if highest > _ROUNDING:
            raise RopewalkError(
                f"the server gives {highest:g} as the log probability of a prompt's token, and none is above 0",
                hint="another version of it may give log probabilities; questions are asked without (--tasks passkey)",
            )
        return [-float(value) for value in told[1:]]

    def _told(self, choice: dict[str, Any]) -> list[Any] | None:
        if self.name == "prompt_logprobs":
            rows = choice.get("prompt_logprobs")
            # The prompt's own token stands first in each row; likelier ones may follow.
            return [_first_value(row) for row in rows] if isinstance(rows, list) else None
        held = choice.get("logprobs")
        told = held.get("token_logprobs") if isinstance(held, dict) else None
        # One word is written where a server cannot write none; it is not part of the prompt.
        return told[: len(told) - int(self.options["max_tokens"])] if isinstance(told, list) else None


def _first_value(row: Any) -> Any:
    value = next(iter(row.values()), None) if isinstance(row, dict) else None
    return value.get("logprob") if isinstance(value, dict) else value


WAYS = (
    Way("echo", {"echo": True, "logprobs": 1, "max_tokens": 0}),
    Way("echo", {"echo": True, "logprobs": 1, "max_tokens": 1}),
    Way("prompt_logprobs", {"prompt_logprobs": 0, "max_tokens": 1}),
)


def find_way(server: Server) -> Way | None:
    """The first way in which the server gives prompt log probabilities, or None."""
    if server.chat:
        return None
    for way in WAYS:
        try:
            found = _losses(server, way, _PROBE_TEXT)
        except UnsupportedError:
            continue
        # One number for a whole sentence would be the written word's, not the prompt's.
        if found is not None and len(found) >= len(_PROBE_TEXT.split()) - 1:
            return way
    return None


def _losses(server: Server, way: Way, text: str) -> Losses | None:
    body = {"model": server.model, "prompt": text, "temperature": 0, **way.options}
    choice, _ = server.first_choice("/completions", body, no_choice)
    return way.losses(choice)


def document_losses(
    server: Server, way: Way, documents: Sequence[Document], length: int
) -> dict[str, Losses]:
    """Losses of the first `length` tokens (95 % of them at least) of each document that is so long, by its name."""
    found: dict[str, Losses] = {}
    for document in documents:
        losses = _fitted(server, way, document, length)
        if losses is not None:
            found[document.name] = losses
    if not found:
        names = ", ".join(document.name for document in documents[:3])
        raise RopewalkError(
            f"none of {len(documents)} documents ({names}, ...) has {length} tokens on this server",
            hint="give a longer --text, or ask for a shorter length",
        )
    return found


def _fitted(server: Server, way: Way, document: Document, length: int) -> Losses | None:
    """Send as much of the text as makes nearly `length` tokens, found in a few steps; None if there is not so much.

    Not more than that: a server whose window is exactly `length` would refuse it, or cut it.
    """
    low, high, per_token, refusal = 0, len(document.text) + 1, 0.0, None
    # Surely too little in most scripts: an answer tells how dense the text is, a refusal only that it was too much.
    size = min(len(document.text), max(64, length // 2))
    for _ in range(8):
        try:
            losses = _required(server, way, document.text[:size])
        except TooLongError as error:
            refusal, high = error, size
            size = int(0.95 * size) if low == 0 else (low + size) // 2
            continue
        tokens = len(losses) + 1
        if CLOSE * length <= tokens <= length:
            return losses
        if tokens < length and size == len(document.text):
            return None
        low, per_token = (size, size / tokens) if tokens < length else (low, size / tokens)
        size = min(len(document.text), max(1, int((1 + CLOSE) / 2 * length * per_token)))
        if size >= high:
            # What was refused once is refused again: half way to it.
            size = (low + high) // 2
    if refusal is not None:
        # The text is long enough and the window is not: "give a longer text" would be the wrong way out.
        raise TooLongError(
            f"loss at {length} tokens: {refusal.message}",
            hint="ask for shorter --lengths, or start the server with a longer window",
        ) from refusal
    return None


def _required(server: Server, way: Way, text: str) -> Losses:
    losses = _losses(server, way, text)
    if losses is None:
        raise RopewalkError(
            "the server stopped giving the prompt's log probabilities",
            hint="look at its log; try fewer tokens",
        )
    return losses


def loss_table(losses: dict[str, Losses], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Rows `{length, loss, perplexity, tail_loss, documents}`: means over the first `length` tokens of each document.

    Every row is over the same documents; `tail_loss` is over the last quarter before `length`.
    """
    rows = []
    for length in sorted(set(lengths)):
        kept = [values[: length - 1] for values in losses.values()]
        loss = math.fsum(math.fsum(values) for values in kept) / sum(len(values) for values in kept)
        tails = [values[-max(1, length // 4) :] for values in kept]
        tail = math.fsum(math.fsum(values) for values in tails) / sum(len(values) for values in tails)
        rows.append(
            {
                "length": length,
                "loss": loss,
                "perplexity": math.exp(min(loss, 700.0)),
                "tail_loss": tail,
                "documents": len(kept),
            }
        )
    return rows
