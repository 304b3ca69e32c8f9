"""A needle grid of 8 lengths x 11 depths: shared prefixes and packed, beside one `generate` per cell.

    OMP_NUM_THREADS=1 python bench/bench_eval_grid.py [--runs 3] [--unit 512]

The limit is the time that a bare forward needs for as many tokens as differ between the cells, each counted once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness import Comparison, compare_series, write_results
from ropewalk.evaluation.retrieval.grid import tree_of
from ropewalk.evaluation.retrieval.run import Asking, plan_tasks, run_tasks
from ropewalk.text import words
from train_model import MODEL, VOCABULARY

DEPTHS = 11
OUT = Path(__file__).parent / "out"


def make_model(longest: int) -> LlamaForCausalLM:
    """Random weights, vocabulary 32k: speed does not depend on what the weights say."""
    torch.manual_seed(0)
    shape = MODEL | {"hidden_size": 256, "intermediate_size": 688, "max_position_embeddings": 2 * longest}
    config = LlamaConfig(**{key: value for key, value in shape.items() if key != "model_type"})
    model = LlamaForCausalLM(config).eval()
    # A word that ends the text would let some cells stop early.
    model.generation_config.eos_token_id = None
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pairs trained on the tasks' own kind of prose: about as many tokens a sentence as real ones."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([f" {words.sentence(rng)}" for _ in range(20_000)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds of one call: with one thread they are wall seconds of a machine that does nothing else."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Measure in pairs: ours, packed, bare forward, one generate per cell; and so on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--unit", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lengths = [options.unit * (step + 1) for step in range(8)]
    model = make_model(lengths[-1])
    tokenizer = make_tokenizer()
    settings = {"tasks": ["needle"], "lengths": lengths, "depths": DEPTHS, "samples": 1}
    [cells] = plan_tasks(tokenizer, Asking(**settings)).groups
    prompts = [torch.from_numpy(cell.prompt_ids.astype("int64"))[None] for cell in cells]
    distinct = tree_of([cell.prompt_ids for cell in cells], least=1).tokens()
    distinct += sum(len(cell.answer_ids) for cell in cells)
    longest = max(prompts, key=lambda prompt: prompt.shape[1])

    def bare() -> None:
        with torch.inference_mode():
            model(input_ids=longest, use_cache=True, logits_to_keep=1)

    def one_by_one() -> None:
        for cell, prompt in zip(cells, prompts, strict=True):
            mask = torch.ones_like(prompt)
            model.generate(prompt, attention_mask=mask, max_new_tokens=len(cell.answer_ids), do_sample=False)

    def shared() -> None:
        run_tasks(model, tokenizer, **settings)

    def packed() -> None:
        run_tasks(model, tokenizer, grid="packed", **settings)

    bare()
    times: dict[str, list[float]] = {name: [] for name in ("shared", "packed", "bare", "one_by_one")}
    for _ in range(options.runs):
        for name, function in (
            ("shared", shared),
            ("packed", packed),
            ("bare", bare),
            ("one_by_one", one_by_one),
        ):
            times[name].append(seconds(function))
    limit = [value * distinct / longest.shape[1] for value in times["bare"]]
    naive = sum(prompt.shape[1] + len(cell.answer_ids) for cell, prompt in zip(cells, prompts, strict=True))
    detail = {"lengths": lengths, "depths": DEPTHS, "tokens_naive": naive, "tokens_distinct": distinct}
    results: list[Comparison] = [
        compare_series(
            "grid beside generate", "CPU s", times["shared"], times["one_by_one"], target="1.8", **detail
        ),
        compare_series(
            "packed beside generate", "CPU s", times["packed"], times["one_by_one"], target=">= 6", **detail
        ),
        compare_series("limit beside grid", "CPU s", limit, times["shared"], target="<= 1.25", **detail),
    ]
    print(f"{naive} tokens cell by cell, {distinct} that differ: at best {naive / distinct:.2f} times fewer")
    write_results(results, OUT / "eval_grid.json")


if __name__ == "__main__":
    main()
