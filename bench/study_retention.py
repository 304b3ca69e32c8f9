"""Keeping short quality while extending four times: plain mixing, distillation, rows under the original rotation.

    python bench/study_retention.py [MODEL ...] [--steps 60] [--seeds 2] [--tokens 4k]

Prints the held-out loss inside the original window and at four times of it, each with half of its 95 % interval, before
the training (plain: under the new rotation; original: short rows as the base has them) and after it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import ropewalk
from ropewalk.models.facts import read_facts
from ropewalk.models.source import config_path, resolve

WAYS: dict[str, dict[str, Any]] = {
    "mixing": {},
    "distil 1": {"retention": {"distil": 1.0, "layers": 3}},
    "original rotation": {"short_rows": "original"},
}


def recipe(model: str, way: dict[str, Any], given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run to four times the window, a quarter of the tokens in rows of the window; only the way differs."""
    window = read_facts(json.loads(config_path(resolve(model)).read_text())).original_length
    made: dict[str, Any] = {
        "model": {"path": model},
        "rope": {"method": "yarn", "factor": 4, "short_rows": way.get("short_rows", "stretched")},
        "data": {"sources": [{"name": "library", "kind": "corpus"}]},
        "stages": [{"length": 4 * window, "steps": given.steps, "mix": {window: 0.25}}],
        "tokens_per_step": given.tokens,
        "micro_batch_tokens": 4 * window,
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 5},
        "evaluation": {"every": given.steps, "lengths": [window, 4 * window], "tokens": "16k"},
        "checkpoints": {"every": given.steps},
        "seed": seed,
    }
    if "retention" in way:
        made["retention"] = way["retention"]
    return made


def main() -> None:
    """Train each model each way under each seed and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["hemp"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", default="4k")
    given = parser.parse_args()
    print("| model | seed | way | short before | short after | long before | long after |", flush=True)
    for model in given.models:
        for seed in range(given.seeds):
            for name, way in WAYS.items():
                with tempfile.TemporaryDirectory() as folder:
                    asked = recipe(model, way, given, seed)
                    done = ropewalk.train(asked, output=Path(folder) / "run", quiet=True, device="cpu")
                    lines = [
                        json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()
                    ]
                measured = [line for line in lines if line["kind"] == "evaluation"]
                short, long = asked["evaluation"]["lengths"]
                cells = [
                    f"{line[f'loss@{length}']:.3f} ± {line[f'ci@{length}']:.3f}"
                    for length in (short, long)
                    for line in (measured[0], measured[-1])
                ]
                print(f"| {Path(model).name} | {seed} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
