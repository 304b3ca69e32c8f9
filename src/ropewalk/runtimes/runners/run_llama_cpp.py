"""Log probabilities from llama.cpp (xllamacpp), run in its own environment: one request a prefix, the cache kept.

A server tells the probabilities of tokens that it writes, not of those it reads. So each wanted place is asked for one
token with every alternative listed; a heavy bias on one plain token decides what is written, and since probabilities
are told before sampling, it changes none of them.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any


def logprobs(item: dict[str, Any]) -> list[list[float | None]]:
    """The next token's log probability at the places asked for (all without `positions`), None elsewhere."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = item["model"]
    params.n_ctx = item["max_length"]
    # One slot: several would share the context, and its size chooses between longrope's two sets.
    params.n_parallel = 1
    params.n_batch = params.n_ubatch = 512
    # The weights have their type from the file; the cache gets the same.
    kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[item.get("dtype", "float32")]
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kind}")
    # Flash attention rounds otherwise (4e-2 beside the usual half-precision cache), and only the schedule should show.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    params.verbosity = -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(
        os.environ.get("OMP_NUM_THREADS", "1")
    )
    for name, value in (item.get("flags") or {}).items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    found = []
    for prompt in item["prompts"]:
        places = item.get("positions") or range(len(prompt) - 1)
        values: list[float | None] = [None] * (len(prompt) - 1)
        # Ascending: each prefix begins with the one before, whose cache is kept.
        for place in sorted(places):
            if place < len(values):
                values[place] = _ask(server, prompt[: place + 1], prompt[place + 1], item)
        found.append(values)
    return found


def _ask(server: Any, prefix: list[int], wanted: int, item: dict[str, Any]) -> float:
    """The log probability of one token after a prefix."""
    # A token of plain ASCII: half a character would be held back, and its probabilities with it.
    answer = server.handle_completions(
        {
            "prompt": prefix,
            "n_predict": 1,
            "n_probs": item["vocabulary"],
            "temperature": 0.0,
            "cache_prompt": True,
            "logit_bias": [[item.get("plain_token", 65), 1e6]],
            "samplers": [],
        }
    )
    content = ((answer.get("choices") or [{}])[0].get("logprobs") or {}).get("content")
    if not content:
        raise RuntimeError(json.dumps(answer)[:400])
    for told in content[0]["top_logprobs"]:
        if told["id"] == wanted:
            return float(told["logprob"])
    # Every alternative was listed.
    return -math.inf


if __name__ == "__main__":
    from answering import answer

    answer(logprobs, ("xllamacpp",))
