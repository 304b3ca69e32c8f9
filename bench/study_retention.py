"""Keeping short quality while extending four times: plain mixing, distillation, rows under the original rotation.

    python bench/study_retention.py [MODEL ...] [--steps 60] [--seeds 2] [--tokens 4k] [--texts 24] [--out FILE]

Every way trains from the same base on the same rows. Measured is the held-out loss inside the original window and at
four times of it, before and after; and each way less plain mixing, paired text by text (the mean over the seeds of one
text counts once), with Student's 95 % interval over documents. Below zero, the way is better than mixing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ropewalk
from ropewalk.evaluation.statistics.intervals import Interval, paired_interval
from ropewalk.models.facts import read_facts
from ropewalk.models.source import config_path, resolve
from ropewalk.training.held_out import HeldOut
from ropewalk.training.model.build import build_tokenizer
from ropewalk.training.parts.loss.losses import shift_labels
from ropewalk.training.recipe.model import ModelPart
from ropewalk.training.recipe.recipe import EvaluationPart

WAYS: dict[str, dict[str, Any]] = {
    "mixing": {},
    "distil 1": {"retention": {"distil": 1.0, "layers": 3}},
    "original rotation": {"short_rows": "original"},
    "both": {"retention": {"distil": 1.0, "layers": 3}, "short_rows": "original"},
}
# Loss by text, of the short and of the long rows.
Found = dict[int, list[float]]


def recipe(
    model: str, way: dict[str, Any], given: argparse.Namespace, seed: int, window: int
) -> dict[str, Any]:
    """One run to four times the window, a quarter of the tokens in rows of the window; only the way differs."""
    made: dict[str, Any] = {
        "model": {"path": model},
        "rope": {"method": "yarn", "factor": 4, "short_rows": way.get("short_rows", "stretched")},
        "data": {"sources": [{"name": "library", "kind": "corpus"}]},
        "stages": [{"length": 4 * window, "steps": given.steps, "mix": {window: 0.25}}],
        "tokens_per_step": given.tokens,
        "micro_batch_tokens": 4 * window,
        "optimizer": {"learning_rate": given.rate, "warmup_steps": 5},
        # The figures are this study's own, text by text: the recipe's evaluation only gives the rhythm.
        "evaluation": {"every": given.steps, "lengths": [window], "tokens": 4 * window},
        "checkpoints": {"every": given.steps},
        "seed": seed,
    }
    if "retention" in way:
        made["retention"] = way["retention"]
    return made


def run(asked: dict[str, Any], texts: HeldOut) -> list[Found]:
    """Train once; the losses text by text before the first step and after the last."""
    found: list[Found] = []

    def measure(model: Any, _step: int) -> dict[str, float]:
        each = {length: texts.by_text(model, rows, shift_labels(rows)) for length, rows in texts.rows.items()}
        found.append({length: [loss / count for loss, count in sums] for length, sums in each.items()})
        return {}

    with tempfile.TemporaryDirectory() as folder:
        ropewalk.train(asked, output=Path(folder) / "run", quiet=True, device="cpu", evaluate=measure)
    return [found[0], found[-1]]


def averaged(seeds: Sequence[Found], length: int) -> list[float]:
    """The mean over the seeds of each text's loss."""
    return [sum(values) / len(values) for values in zip(*(found[length] for found in seeds), strict=True)]


def shown(interval: Interval) -> str:
    """`-0.012 [-0.020, -0.004]`."""
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def study(model: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one model's table, printed as they come."""
    window = read_facts(json.loads(config_path(resolve(model)).read_text())).original_length
    part = EvaluationPart(every=1, lengths=[window, 4 * window], tokens=given.texts * 4 * window)
    texts = HeldOut(part, build_tokenizer(ModelPart(path=model)), 4 * window)
    rows: list[dict[str, Any]] = []
    plain: list[list[Found]] = []
    for name in given.ways:
        start = time.process_time()
        seeds = [run(recipe(model, WAYS[name], given, seed, window), texts) for seed in range(given.seeds)]
        plain = plain or seeds
        row: dict[str, Any] = {"model": Path(model).name, "way": name}
        for kind, length in (("short", window), ("long", 4 * window)):
            before, after = (averaged([pair[when] for pair in seeds], length) for when in (0, 1))
            base = averaged([pair[1] for pair in plain], length)
            row[f"{kind} before"] = f"{sum(before) / len(before):.3f}"
            row[f"{kind} after"] = f"{sum(after) / len(after):.3f}"
            row[f"{kind} by seed"] = [round(sum(pair[1][length]) / len(base), 4) for pair in seeds]
            row[f"{kind} less mixing"] = (
                "" if seeds is plain else shown(paired_interval(after, base, texts.owners))
            )
        row["texts"], row["documents"] = len(texts.texts), len(texts.names)
        row["cpu_s"] = round(time.process_time() - start)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Train each model each way under each seed and print a row a way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["hemp"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", default="4k")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = [row for model in given.models for row in study(model, given)]
    if given.out is not None:
        given.out.write_text(
            json.dumps({"asked": vars(given) | {"out": None}, "rows": found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
