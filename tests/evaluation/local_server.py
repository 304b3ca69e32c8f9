"""A small OpenAI-compatible server on 127.0.0.1 that copies, truncates, counts, or misbehaves as a test asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import JsonHandler, serving_with

TEMPLATE_TOKENS = 7


@dataclass
class Behaviour:
    """What the server does. A token is a UTF-8 byte, so that a test can count."""

    window: int | None = None
    refuse_past: int | None = None
    usage: str = "read"  # read: after truncation; sent: before it; none
    logprobs: bool = True
    prompt_logprobs: str = "none"  # none, echo, echo1 (needs max_tokens >= 1), vllm
    completions: bool = True
    chat: bool = True
    misbehave: Callable[[BaseHTTPRequestHandler, int], bool] | None = None
    models: tuple[str, ...] = ("copycat",)
    thinks: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def continuation(self, seen: str, count: int) -> str:
        """What followed the latest earlier occurrence of the text's last words, or nothing."""
        for size in (40, 24, 16, 12):
            tail = seen[-size:]
            at = seen.rfind(tail, 0, len(seen) - 1)
            if at >= 0 and at + size < len(seen):
                return seen[at + size :][:count]
        return "?"

    def chat_answer(self, seen: str, count: int) -> str:
        """The sentence in which the asked thing is said."""
        for phrase in ("The pass key is", "The special magic number for", "The number of"):
            at = seen.find(phrase)
            if at >= 0:
                return f"Sure: {seen[at : at + 60]}"[:count]
        return "I do not know."


def make_handler(behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            if behaviour.misbehave is not None and behaviour.misbehave(self, len(behaviour.requests)):
                return
            self.reply(200, {"data": [{"id": name} for name in behaviour.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behaviour.requests.append(body | {"path": self.path})
            behaviour.headers.append(dict(self.headers))
            if behaviour.misbehave is not None and behaviour.misbehave(self, len(behaviour.requests)):
                return
            is_chat = self.path.endswith("/chat/completions")
            known = self.path in ("/v1/completions", "/v1/chat/completions")
            if not known or not (behaviour.chat if is_chat else behaviour.completions):
                self.reply(404, {"error": {"message": "no such path"}})
                return
            self.answer(body, is_chat)

        def answer(self, body: dict[str, Any], is_chat: bool) -> None:
            prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
            sent = len(prompt.encode()) + (TEMPLATE_TOKENS if is_chat else 1)
            if behaviour.refuse_past is not None and sent + body["max_tokens"] > behaviour.refuse_past:
                text = f"This model's maximum context length is {behaviour.refuse_past} tokens, you asked for {sent}."
                self.reply(400, {"error": {"message": text}})
                return
            seen = prompt if behaviour.window is None else prompt[-behaviour.window :]
            if body.get("echo") or body.get("prompt_logprobs") is not None:
                self.echo(body, seen)
                return
            count = body["max_tokens"]
            text = behaviour.chat_answer(seen, count) if is_chat else behaviour.continuation(seen, count)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
            if behaviour.thinks:
                text = ""
            choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            if body.get("logprobs"):
                if not behaviour.logprobs:
                    self.reply(400, {"error": {"message": "logprobs are not supported"}})
                    return
                # Probabilities depend on everything that is read, as a model's do.
                digest = hashlib.sha256(seen.encode()).digest()
                values = [-0.001 - byte / 1000 for byte in digest[: max(1, min(4, len(text)))]]
                choice["logprobs"] = (
                    {"content": [{"token": "x", "logprob": value} for value in values]}
                    if is_chat
                    else {"token_logprobs": values}
                )
            counted = {"read": min(sent, behaviour.window or sent), "sent": sent}.get(behaviour.usage)
            usage = {} if counted is None else {"usage": {"prompt_tokens": counted}}
            self.reply(200, {"choices": [choice], **usage})

        def echo(self, body: dict[str, Any], seen: str) -> None:
            mode = behaviour.prompt_logprobs
            tokens = len(seen.encode())
            values: list[float | None] = [None, *([-1.5] * (tokens - 1))]
            if mode == "vllm" and body.get("prompt_logprobs") is not None:
                rows = [None, *({"17": {"logprob": -1.5}, "3": {"logprob": -0.1}} for _ in range(tokens - 1))]
                self.reply(200, {"choices": [{"text": "x", "prompt_logprobs": rows}]})
            elif mode in ("echo", "echo1") and body.get("echo"):
                if mode == "echo1" and body["max_tokens"] == 0:
                    self.reply(400, {"error": {"message": "max_tokens must be at least 1"}})
                    return
                values += [-9.0] * body["max_tokens"]
                self.reply(200, {"choices": [{"text": seen, "logprobs": {"token_logprobs": values}}]})
            else:
                self.reply(200, {"choices": [{"text": "x", "logprobs": None}]})

    return Handler


def serving(behaviour: Behaviour) -> contextlib.AbstractContextManager[str]:
    """The base address of a server that lives as long as the block."""
    return serving_with(make_handler(behaviour))


def drip(handler: BaseHTTPRequestHandler, seconds: float) -> None:
    """An answer that never ends, a byte at a time, each in good time for a socket's own timeout."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
