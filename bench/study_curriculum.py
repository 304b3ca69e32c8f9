"""A tiny model from scratch at 256, then to 2048 with the same budget in different ways: loss and retrieval of each.

    python bench/study_curriculum.py FOLDER [DIVISOR OF STEPS]        # about ten minutes on one core

Retrieval is next-token accuracy inside the second copy of a span of random letters, the first copy `lag` tokens
earlier; chance is one in 26. Loss is on the held-out standard library, in nats per byte. Arms that are finished are not
repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ropewalk
from ropewalk.models.apply import apply
from ropewalk.models.facts import read_geometry
from ropewalk.models.load import load_model, load_tokenizer, quiet_transformers
from ropewalk.text.corpus import held_out_documents
from ropewalk.text.generators import source
from ropewalk.training.data.streams import Documents, DocumentStream

SHORT, LONG = 256, 2048
SPAN = 48
LETTERS = np.arange(97, 123)
ROPE = {"method": "yarn", "target_length": LONG, "parameters": {"beta_fast": 4, "beta_slow": 1}}
DATA = {
    "sources": [
        {"name": "library", "kind": "corpus", "share": 0.4},
        {"name": "spans", "kind": "generated", "generator": "study-spans", "share": 0.6},
    ]
}


@source("study-spans")
def spans(rng: np.random.Generator, tokenizer: Any, length: int) -> list[int]:
    """Random letters that return: short spans over and over, or one span once more after a gap of random letters."""
    size = int(min(SPAN, length // 2) * rng.uniform(0.25, 1.0)) + 1
    span = rng.choice(LETTERS, size)
    if rng.random() < 0.5:
        return np.tile(span, length // size + 1)[:length].tolist()
    filler = rng.choice(LETTERS, max(0, length - 2 * size))
    cut = int(rng.integers(0, len(filler) + 1))
    return [*filler[:cut], *span, *filler[cut:], *span][:length]


def recipe(name: str, **parts: Any) -> dict[str, Any]:
    """What all runs have in common."""
    return {
        "name": name,
        "data": DATA,
        "tokens_per_step": 2048,
        "checkpoints": {"every": 100, "keep_last": 1},
        "log_every": 50,
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 50, "decay": "constant"},
    } | parts


def look_back_recipe() -> dict[str, Any]:
    """The model, and the first lesson: spans that repeat and nothing else, in short samples of large alphabets. Mixed
    with text from the first step the same model never learnt to copy (3 million tokens, chance at every lag)."""
    fields = {
        "model_type": "llama",
        "vocab_size": 264,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": SHORT,
        "tie_word_embeddings": True,
    }
    copying = {"name": "copying", "kind": "generated", "generator": "hemp-copy", "share": 1.0}
    return recipe(
        "look-back",
        model={"init": fields, "tokenizer": "hemp"},
        data={"sources": [copying]},
        stages=[{"length": 64, "steps": 700}, {"length": 128, "steps": 300}],
    )


def base_recipe(start: str) -> dict[str, Any]:
    """The base model: text and spans at the window."""
    return recipe("base", model={"path": start}, stages=[{"length": SHORT, "steps": 700}])


def arms(base: str) -> dict[str, dict[str, Any]]:
    """The same number of tokens each: 120 steps of 4096."""
    short = {SHORT: 0.25}
    grown = [{"length": length, "steps": 40} for length in (512, 1024, LONG)]
    flat = {"length": LONG, "steps": 120}
    stages = {
        "curriculum, mixed": ([stage | {"mix": short} for stage in grown], "final"),
        "curriculum, mixed, factor by stage": ([stage | {"mix": short} for stage in grown], "stage"),
        "no curriculum (2048 throughout, mixed)": ([flat | {"mix": short}], "final"),
        "no mixing (curriculum alone)": (grown, "final"),
        "plain steps (2048 throughout)": ([flat], "final"),
    }
    optimizer = {"learning_rate": 5e-4, "warmup_steps": 10, "decay": "cosine"}
    return {
        name: recipe(
            "arm",
            model={"path": base},
            stages=steps,
            rope=ROPE | {"follow": follow},
            tokens_per_step=4096,
            optimizer=optimizer,
        )
        for name, (steps, follow) in stages.items()
    }


@torch.no_grad()
def accuracy(model: Any, lag: int, rows: int = 32) -> float:
    """Next-token accuracy in the second copy of a span, past its first four letters."""
    rng = np.random.default_rng([7, lag])
    right = []
    for _ in range(rows):
        span = rng.choice(LETTERS, SPAN)
        filler = rng.choice(LETTERS, lag - SPAN)
        ids = torch.tensor(np.concatenate([span, filler, span]))[None]
        guessed = model(ids, use_cache=False).logits[0, :-1].argmax(-1)
        right.append((guessed[4 - SPAN :] == ids[0, 4 - SPAN :]).float().mean())
    return float(torch.stack(right).mean())


@torch.no_grad()
def text_loss(model: Any, length: int, total: int = 32768) -> float:
    """Mean loss of the last 128 tokens of rows of that length, which is where a short window would not reach."""
    documents = Documents([(item.name, item.text) for item in held_out_documents()], load_tokenizer("hemp"))
    stream = DocumentStream(documents, np.arange(len(documents)), (0,))
    losses = []
    for _ in range(total // length):
        ids = torch.from_numpy(stream.take(length).ids)[None]
        logits = model(ids, use_cache=False).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits[-128:], ids[0, -128:]))
    return float(torch.stack(losses).mean())


def row(name: str, model: Any) -> str:
    """One line of the table."""
    losses = [text_loss(model, length) for length in (SHORT, LONG)]
    found = [accuracy(model, lag) for lag in (128, 512, 1024, 1900)]
    return " | ".join(
        ["", name, *(f"{value:.3f}" for value in losses), *(f"{value:.2f}" for value in found), ""]
    ).strip()


def shortened(settings: dict[str, Any], divisor: int) -> dict[str, Any]:
    """The same recipe with a fraction of its steps: a trial of this script, not of the model."""
    stages = [stage | {"steps": max(1, stage["steps"] // divisor)} for stage in settings["stages"]]
    return settings | {"stages": stages}


def trained(output: Path, settings: dict[str, Any], divisor: str) -> Any:
    """One training run, taken up where it was left; a finished one is read, not repeated."""
    return ropewalk.train(
        shortened(settings, int(divisor)), output=output, resume=output.exists(), quiet="arm" in output.name
    )


def main(folder: str, divisor: str = "1") -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    start = trained(root / "look-back", look_back_recipe(), divisor)
    base = trained(root / "base", base_recipe(start.final["path"]), divisor)
    print(
        "| training | loss at 256 | loss at 2048 | lag 128 | 512 | 1024 | 1900 |\n|---|---|---|---|---|---|---|"
    )
    with quiet_transformers():
        model = load_model(base.final["path"])
        print(row("none, unmodified", model), flush=True)
        schedule = ropewalk.schedule(
            "yarn", read_geometry(base.final["path"]), factor=LONG / SHORT, **ROPE["parameters"]
        )
        with apply(model, schedule):
            print(row("none, YaRN", model), flush=True)
    for number, (name, settings) in enumerate(arms(base.final["path"]).items()):
        result = trained(root / f"arm-{number}", settings, divisor)
        with quiet_transformers():
            print(row(name, load_model(result.final["path"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
