"""Questions to a served model: a continuation of a prompt or of a chat, with the tokens that the server counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import UsageError, one_line
from ropewalk.evaluation.served.endpoint import Complaint, Endpoint, UnsupportedError

APIS = ("auto", "completions", "chat")


@dataclass(frozen=True)
class Reply:
    """What the server said. `prompt_tokens` is its own count; `logprobs` those of the words it wrote, where given."""

    text: str
    prompt_tokens: int | None
    logprobs: tuple[float, ...] | None
    finish: str | None


class Server:
    """A model behind an endpoint."""

    def __init__(self, endpoint: Endpoint, model: str | None = None, *, api: str = "auto") -> None:
        if api not in APIS:
            raise UsageError(f"no api {one_line(api, 40)!r}", hint=f"use one of {', '.join(APIS)}")
        self.endpoint = endpoint
        self.model = model or self._only_model()
        self.api = api if api != "auto" else self._find_api()
        self.gives_logprobs = True

    def _only_model(self) -> str:
        listed = self.endpoint.get("/models")
        rows = listed.get("data") if isinstance(listed, dict) else None
        rows = rows if isinstance(rows, list) else []
        names = [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
        # Among several only the user can know: the first one listed may be an adapter or a draft model.
        if len(names) == 1:
            return names[0]
        shown = ", ".join(one_line(name, 60) for name in names[:8]) or "none"
        raise UsageError(f"the server lists {len(names)} models", hint=f"choose one with --model: {shown}")

    def _find_api(self) -> str:
        """`completions` where the server has it: a base model's prompt can be continued word by word there."""
        try:
            self._complete("Hello", 1, logprobs=False)
        except UnsupportedError as refusal:
            try:
                self._chat("Hello", 1, logprobs=False)
            except UnsupportedError:
                raise refusal from None
            return "chat"
        return "completions"

    @property
    def chat(self) -> bool:
        """Whether questions go to the chat API, which writes the model's own template around them."""
        return self.api == "chat"

    def ask(self, prompt: str, max_tokens: int, *, logprobs: bool = False) -> Reply:
        """A greedy continuation. Log probabilities are left out from the first refusal on."""
        send = self._chat if self.chat else self._complete
        if logprobs and self.gives_logprobs:
            try:
                return send(prompt, max_tokens, logprobs=True)
            except UnsupportedError:
                self.gives_logprobs = False
        return send(prompt, max_tokens, logprobs=False)

    def _complete(self, prompt: str, max_tokens: int, *, logprobs: bool) -> Reply:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        wish = {"logprobs": 1} if logprobs else {}
        choice, usage = self.first_choice("/completions", body | wish, _no_text)
        told = choice.get("logprobs")
        values = told.get("token_logprobs") if isinstance(told, dict) else None
        return Reply(choice["text"], usage, _floats(values), choice.get("finish_reason"))

    def _chat(self, content: str, max_tokens: int, *, logprobs: bool) -> Reply:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        wish = {"logprobs": True} if logprobs else {}
        choice, usage = self.first_choice("/chat/completions", body | wish, _no_message)
        text = choice["message"].get("content") or ""
        told = choice.get("logprobs")
        rows = told.get("content") if isinstance(told, dict) else None
        values = (
            [row.get("logprob") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None
        )
        return Reply(text, usage, _floats(values), choice.get("finish_reason"))

    def first_choice(
        self, path: str, body: dict[str, Any], complaint: Complaint | None = None
    ) -> tuple[dict[str, Any], int | None]:
        """The first choice of an answer, and `usage.prompt_tokens` where the server counts."""
        answer = self.endpoint.post(path, body, complaint or no_choice)
        usage = answer.get("usage")
        counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return answer["choices"][0], counted if isinstance(counted, int) and counted > 0 else None


def no_choice(answer: Any) -> str | None:
    """What is wrong with an answer that has no first choice."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return None
    return "JSON without choices, which no OpenAI-compatible server does"


def _no_text(answer: Any) -> str | None:
    if (fault := no_choice(answer)) is not None:
        return fault
    return None if isinstance(answer["choices"][0].get("text"), str) else "a choice without text"


def _no_message(answer: Any) -> str | None:
    if (fault := no_choice(answer)) is not None:
        return fault
    message = answer["choices"][0].get("message")
    # A model that only thought, or stopped at once, leaves a message without content: that is an empty answer.
    fine = isinstance(message, dict) and isinstance(message.get("content"), str | None)
    return None if fine else "a choice without a message"


def _floats(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    found = tuple(float(value) for value in values if isinstance(value, int | float))
    return found or None
