"""An OpenAI-compatible server on 127.0.0.1 that really runs a model with transformers."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import torch

from local_http import JsonHandler, serving_with


@dataclass
class Served:
    """The model, and how the server behaves. `window` refuses longer prompts, `cut` reads only their end."""

    model: Any
    tokenizer: Any
    window: int | None = None
    cut: int | None = None
    claims: int | None = None
    prompt_logprobs: bool = True
    top: int = 5
    takes_ids: bool = True
    content_style: bool = False
    rounding: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document for one completion."""
        prompt = body["prompt"]
        if isinstance(prompt, list) and not self.takes_ids:
            return 400, {"error": {"message": "prompt must be a string"}}
        if body.get("echo") and not self.prompt_logprobs:
            return 400, {"error": {"message": "echo is not supported"}}
        ids = list(prompt) if isinstance(prompt, list) else self.tokenizer(prompt).input_ids
        if self.window is not None and len(ids) + body["max_tokens"] > self.window:
            return 400, {"error": {"message": f"maximum context length is {self.window} tokens"}}
        seen = ids if self.cut is None else ids[-self.cut :]
        with self.lock, torch.inference_mode():
            return 200, self.complete(body, seen)

    def complete(self, body: dict[str, Any], seen: list[int]) -> dict[str, Any]:
        """Greedy words after what is read, with the log probabilities asked for."""
        ids, rows = list(seen), []
        scores = self.scores(ids)
        echoed = [None, *(float(scores[at, token]) for at, token in enumerate(ids[1:]))]
        for _ in range(body["max_tokens"]):
            values, tokens = scores[-1].topk(max(self.top, 1))
            rows.append(list(zip(tokens.tolist(), values.tolist(), strict=True)))
            ids.append(rows[-1][0][0])
            scores = self.scores(ids)
        written = ids[len(seen) :]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length",
            "text": self.tokenizer.decode(written),
        }
        if body.get("echo"):
            choice["logprobs"] = {"token_logprobs": echoed + [row[0][1] for row in rows]}
        elif body.get("logprobs") and self.top and rows:
            choice["logprobs"] = self.told(rows)
        return {"choices": [choice], "usage": {"prompt_tokens": len(seen)}}

    def scores(self, ids: list[int]) -> torch.Tensor:
        """Log probabilities at every place, coarser where the server's number format is."""
        found = torch.log_softmax(
            self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float(), -1
        )
        return (found / self.rounding).round() * self.rounding if self.rounding else found

    def told(self, rows: list[list[tuple[int, float]]]) -> dict[str, Any]:
        """The likeliest tokens in the older spelling, or in llama.cpp's with ids."""
        name = self.tokenizer.decode
        if self.content_style:
            return {
                "content": [
                    {
                        "logprob": row[0][1],
                        "top_logprobs": [{"id": token, "logprob": value} for token, value in row],
                    }
                    for row in rows
                ]
            }
        return {
            "token_logprobs": [row[0][1] for row in rows],
            "top_logprobs": [{name([token]): value for token, value in row} for row in rows],
        }


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            row = {"id": "tiny"} | ({} if served.claims is None else {"max_model_len": served.claims})
            self.reply(200, {"data": [row]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(body | {"path": self.path})
            if self.path != "/v1/completions":
                self.reply(404, {"error": {"message": "no such path"}})
                return
            self.reply(*served.answer(body))

    return Handler


def serving(served: Served) -> contextlib.AbstractContextManager[str]:
    """The base address of a server that lives as long as the block."""
    return serving_with(_handler(served))
