"""What a server says about known prompts: log probabilities of given tokens at given places.

Two ways: the prompt's own log probabilities (`echo`, or vLLM's `prompt_logprobs`), or the likeliest tokens of the one
token that the server writes after each of many prompts. A server that gives neither cannot be told from another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.served.endpoint import UnsupportedError
from ropewalk.evaluation.served.loss import Way, find_way
from ropewalk.evaluation.served.server import Server, no_choice
from ropewalk.text import words

# No more than the completions API allows for `logprobs`.
TOP = 5


@dataclass(frozen=True)
class Said:
    """One prompt and what the server said: log p(token | ids[:place]) for every (place, token, log p)."""

    ids: tuple[int, ...]
    values: tuple[tuple[int, int, float], ...]


class Witness:
    """A server that is asked for log probabilities of token ids. `way` says how: prompt or top."""

    def __init__(self, server: Server, tokenizer: Any) -> None:
        self.server = server
        self.tokenizer = tokenizer
        self._prompt_way: Way | None = find_way(server)
        self._takes_ids: bool | None = None
        self.way = "prompt" if self._prompt_way is not None else "top"

    def ask(self, ids: Sequence[int], places: int) -> Said:
        """What the server says about one prompt: at every token, or at `places` tokens spread over it."""
        if self._prompt_way is not None:
            losses = self._prompt_way.losses(self._choice(ids, self._prompt_way.options))
            if losses is None or len(losses) != len(ids) - 1:
                told = "none" if losses is None else str(len(losses) + 1)
                raise RopewalkError(
                    f"the server gives log probabilities of {told} tokens for a prompt of {len(ids)}",
                    hint="is --base the model that it serves, with the same tokenizer?",
                )
            # The model's first tokens hang on nothing but the beginning of the text.
            return Said(
                tuple(ids), tuple((at + 1, ids[at + 1], -loss) for at, loss in enumerate(losses) if at >= 4)
            )
        first = len(ids) // 4
        step = max(1, (len(ids) - first) // places)
        found: list[tuple[int, int, float]] = []
        for place in range(len(ids) - 1, first, -step):
            found += [(place, token, value) for token, value in self._next(ids[:place]).items()]
        if not found:
            raise UsageError(
                f"{self.server.endpoint.url} gives no log probabilities, neither of the prompt nor of what it writes",
                hint="start it so that completions answer `logprobs` (llama.cpp: n_probs; vLLM: --max-logprobs), or "
                "use `ropewalk eval http://...` for what answers alone can show",
            )
        return Said(tuple(ids), tuple(found))

    def _next(self, ids: Sequence[int]) -> Mapping[int, float]:
        """The likeliest next tokens by id."""
        choice = self._choice(ids, {"max_tokens": 1, "logprobs": TOP})
        return {
            token: value
            for name, value in _top(choice.get("logprobs"))
            if (token := name if isinstance(name, int) else self._by_text.get(name)) is not None
            and math.isfinite(value)
        }

    def _choice(self, ids: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice for a prompt of token ids; as text where the server takes no ids."""
        wish = {"model": self.server.model, "temperature": 0, **options}
        if self._takes_ids is not False:
            try:
                choice, counted = self.server.first_choice(
                    "/completions", wish | {"prompt": list(ids)}, no_choice
                )
            except UnsupportedError:
                # It took ids before, so this refusal is of something else.
                if self._takes_ids:
                    raise
            else:
                # A server that takes the list for something else counts other tokens, and is asked in text.
                if counted is None or counted == len(ids):
                    self._takes_ids = True
                    return choice
        self._takes_ids = False
        text = self.tokenizer.decode(ids)
        choice, counted = self.server.first_choice("/completions", wish | {"prompt": text}, no_choice)
        if counted is not None and counted != len(ids):
            raise RopewalkError(
                f"the server reads {counted} tokens where the base's tokenizer has {len(ids)}",
                hint="is --base the model that it serves? A server that cuts prompts also reads fewer",
            )
        return choice

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Token ids by their text; texts that two tokens share are left out."""
        texts = [self.tokenizer.decode([token]) for token in range(len(self.tokenizer))]
        seen: dict[str, int] = {}
        for text in texts:
            seen[text] = seen.get(text, 0) + 1
        return {text: token for token, text in enumerate(texts) if seen[text] == 1}


def _top(told: Any) -> list[tuple[int | str, float]]:
    """(token id or text, log probability) of the first written token, in both spellings of the answer."""
    if not isinstance(told, Mapping):
        return []
    rows = told.get("content")
    if isinstance(rows, list) and rows and isinstance(rows[0], Mapping):
        return [
            (row["id"] if isinstance(row.get("id"), int) else str(row.get("token")), float(row["logprob"]))
            for row in rows[0].get("top_logprobs") or []
            if isinstance(row, Mapping) and isinstance(row.get("logprob"), int | float)
        ]
    tops = told.get("top_logprobs")
    if isinstance(tops, list) and tops and isinstance(tops[0], Mapping):
        return [
            (str(name), float(value)) for name, value in tops[0].items() if isinstance(value, int | float)
        ]
    return []


def probe_ids(tokenizer: Any, tokens: int, seed: int) -> tuple[int, ...]:
    """A prompt of just so many tokens: prose, and from its middle on the same prose again.

    Copying what stood half a prompt ago hangs on the rotation at that distance, so its probabilities tell most.
    """
    rng = random.Random(seed)
    half = tokens // 2
    text = ""
    while len(tokenizer(text).input_ids) < half:
        text += " ".join(words.sentence(rng) for _ in range(8)) + " "
    # Special tokens stand at the very beginning alone, as they do in any text.
    first = list(tokenizer(text).input_ids)[:half]
    plain = list(tokenizer(text, add_special_tokens=False).input_ids)
    return (
        tuple((first + plain + plain)[:tokens])
        if len(plain) < half
        else tuple(first + plain[: tokens - half])
    )
