"""Documents end to end, interleaved, and fitted whole: held-out loss after the same steps, seeds beside each other.

    python bench/study_interleave.py [--steps 100] [--seeds 2]

A small model from scratch on the standard library. Prints the held-out loss, the spread of the training loss between
steps, documents a step, padding and cut documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import ropewalk

WAYS: dict[str, dict[str, Any]] = {
    "end to end": {"interleave": 1},
    "interleaved": {"interleave": 64},
    "fitted": {"rows": "fit"},
}


def recipe(way: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """One run; only the way documents fill rows differs."""
    made: dict[str, Any] = {
        "model": {
            "init": {
                "model_type": "llama",
                "hidden_size": 128,
                "intermediate_size": 352,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 256,
            },
            "tokenizer": "hemp",
        },
        "data": {
            "sources": [{"name": "library", "kind": "corpus"}],
            "interleave": way.get("interleave", 64),
        },
        "stages": [{"length": 256, "steps": steps}],
        "tokens_per_step": "4k",
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 10},
        "evaluation": {"every": steps, "lengths": [256], "tokens": "32k"},
        "checkpoints": {"every": steps},
        "log_every": 1,
        "seed": seed,
    }
    if "rows" in way:
        made["packing"] = {"rows": way["rows"], "boundaries": "none"}
    return made


def main() -> None:
    """Train each way under each seed and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    print("| rows | seed | held out | spread between steps | documents a step | padding | cut |", flush=True)
    for seed in range(given.seeds):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                asked = recipe(way, given.steps, seed)
                done = ropewalk.train(asked, output=Path(folder) / "run", quiet=True, device="cpu")
                lines = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
                [report] = json.loads((done.run / "run.json").read_text())["data_report"]
            trained = [line for line in lines if line["kind"] == "train"][-given.steps // 3 :]
            spread = statistics.stdev(line["loss"] for line in trained)
            documents = statistics.mean(line["documents_per_step"] for line in trained)
            held_out = lines[-1]["loss"]
            print(
                f"| {name} | {seed} | {held_out:.3f} | {spread:.3f} | {documents:.1f} | {report['padding']:.1%} | "
                f"{report['cut']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
