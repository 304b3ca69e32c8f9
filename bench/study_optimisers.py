"""Tokens and seconds until a small model begins to copy: Muon beside AdamW at two learning rates.

    python bench/study_optimisers.py [STEPS]        # about six minutes on two cores

hemp's shape, hemp's first stage (repeated spans in samples of 64 tokens), steps of 2,048 tokens, warm-up of 60.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import ropewalk
from ropewalk.training.metrics import read_metrics
from ropewalk.training.recipe.reading import read_recipe

ARMS = (("adamw", 1e-3), ("adamw", 2.5e-3), ("muon", 2.5e-3))
EVERY = 25


def recipe_for(name: str, rate: float, steps: int) -> dict[str, Any]:
    """hemp's recipe, its first stage alone under another optimiser."""
    whole = read_recipe("hemp").to_json()
    return whole | {
        "stages": [{"length": 64, "steps": steps, "sources": {"copying": 1.0}}],
        "tokens_per_step": 2048,
        "optimizer": {
            "name": name,
            "learning_rate": rate,
            "warmup_steps": 60,
            "decay": "constant",
            "weight_decay": 0.1,
        },
        "evaluation": None,
        "checkpoints": {"every": 10 * steps},
        "log_every": EVERY,
    }


def main() -> None:
    """Train each arm, and print the loss by step with the speed of each."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    curves, speeds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, rate) in enumerate(ARMS):
            run = Path(folder) / str(number)
            result = ropewalk.train(recipe_for(name, rate, steps), output=run, quiet=True, device="cpu")
            lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
            curves[name, rate] = {line["step"]: line["loss"] for line in lines}
            speeds[name, rate] = result.final["tokens_per_s"]
    table = Table("steps", *(f"{name} {rate:g}" for name, rate in ARMS))
    for step in next(iter(curves.values())):
        table.add_row(str(step), *(f"{curves[arm][step]:.3f}" for arm in ARMS))
    table.add_row("tokens/s", *(f"{speeds[arm]:,.0f}" for arm in ARMS))
    Console().print(table)


if __name__ == "__main__":
    main()
