"""An endless stream beside a full cache: loss, time per token and cache memory, by tokens read.

    python bench/bench_stream.py --model hemp --tokens 200000 --full 16384

One row at each mark: mean loss since the last mark, milliseconds per token when read in pieces of 64, milliseconds for
one written token, cache memory, and the process's memory. Milliseconds are of the processor, in user and kernel
together: another program beside this one does not change them. The full cache is the same loop with stock DynamicCache;
it stops at `--full` tokens, since its time grows with the square.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import psutil
import torch
from transformers import DynamicCache

from ropewalk.attention.caches import cache_bytes
from ropewalk.generation.sampling import Sampler
from ropewalk.generation.stream import Stream
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.text.corpus import held_out_documents


def text_of(tokenizer: Any, tokens: int) -> list[int]:
    """Held-out sources end to end, from the beginning again where they run out."""
    found: list[int] = []
    while len(found) < tokens:
        for document in held_out_documents():
            found += tokenizer(document.text + "\n\n", add_special_tokens=False, verbose=False)["input_ids"]
            if len(found) >= tokens:
                break
    return found[:tokens]


def show(name: str, seen: int, loss: float, read_ms: float, write_ms: float, kv: int) -> None:
    """One row."""
    memory = psutil.Process().memory_info().rss / 2**20
    print(
        f"{name:6s} {seen:8d}  loss {loss:.3f}  read {read_ms:6.2f} ms/token  write {write_ms:6.1f} ms"
        f"  KV {kv / 2**20:8.2f} MiB  process {memory:6.0f} MiB",
        flush=True,
    )


def marks(tokens: int) -> list[int]:
    """1k, 2k, 4k, 8k, 16k, then every 16k, and the end."""
    found = [*(1024 * 2 ** np.arange(4)), *range(16384, tokens, 16384)]
    return [int(mark) for mark in found if mark < tokens] + [tokens]


def stream(model: Any, ids: list[int]) -> None:
    """Sinks and a window."""
    with Stream(model) as endless:
        begin = 0
        for mark in marks(len(ids)):
            started = time.process_time()
            nll = endless.read(ids[begin:mark])
            read_ms = 1e3 * (time.process_time() - started) / (mark - begin)
            started = time.process_time()
            written = len(list(endless.write(8, Sampler(), set())))
            write_ms = 1e3 * (time.process_time() - started) / written
            show("stream", mark, nll / (mark - begin), read_ms, write_ms, endless.told.kv_bytes)
            begin = mark


@torch.inference_mode()
def full(model: Any, ids: list[int]) -> None:
    """The same loop over a cache that keeps everything."""
    cache, begin, last = DynamicCache(config=model.config), 0, None
    for mark in marks(len(ids)):
        started, losses = time.process_time(), []
        for first in range(begin, mark, 64):
            row = torch.tensor([ids[first : min(first + 64, mark)]])
            logits = model(input_ids=row, past_key_values=cache, use_cache=True).logits[0].float()
            rows = logits[:-1] if last is None else torch.cat([last[None], logits[:-1]])
            targets = row[0, len(row[0]) - len(rows) :]
            losses.append(float(torch.nn.functional.cross_entropy(rows, targets, reduction="sum")))
            last = logits[-1]
        read_ms = 1e3 * (time.process_time() - started) / (mark - begin)
        assert last is not None
        started = time.process_time()
        for _ in range(8):
            token = last.argmax()[None, None]
            last = model(input_ids=token, past_key_values=cache, use_cache=True).logits[0, -1].float()
        write_ms = 1e3 * (time.process_time() - started) / 8
        show("full", mark, sum(losses) / (mark - begin), read_ms, write_ms, cache_bytes(cache))
        begin = mark


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="hemp")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--full", type=int, default=16_384)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_model(given.model), load_tokenizer(given.model)
    ids = text_of(tokenizer, max(given.tokens, given.full))
    stream(model, ids[: given.tokens])
    full(model, ids[: given.full])


if __name__ == "__main__":
    main()
