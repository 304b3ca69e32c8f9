"""What predicts use: mean loss, key-token loss, needle and harder tasks beside multi-document question answering.

    python bench/study_verdict.py OUT.json MODEL... [--target 8x] [--reference MODEL] [--samples 8] [--segments 8]

Every MODEL (a folder or `hemp`) is measured at the target length as it is where it is stretched already, otherwise
under each of a few zero-shot schedules: at least six readers in all. Rows are kept in OUT.json as they end; a reader
that is there is not repeated. The table and the rank correlations with `doc-qa` are printed at the end. Key tokens are
chosen by --reference for all models alike (same tokenizer); without it each model's own are taken, which flatters it.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from ropewalk.evaluation.candidates.controls import is_scaled
from ropewalk.files import write_json
from ropewalk.models.apply import apply
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model, load_tokenizer, quiet_transformers
from ropewalk.units import parse_target

SCHEDULES = ("none", "ntk", "by-parts", "yarn", "mrrope-pro")
TASKS = ("needle", "kv", "bio", "bio-compare", "mentions", "doc-qa")
USE = "doc-qa"


def main() -> None:
    """Measure what is missing, then print."""
    given = _arguments()
    out = Path(given.out)
    rows: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for source in given.models:
        for name, schedule in _readers(source, given.target):
            if name not in rows:
                rows[name] = _measured(source, schedule, given)
                write_json(out, rows)
                print(name, json.dumps(rows[name]), flush=True)
    _show(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--target", default="8x")
    parser.add_argument("--reference")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--segments", type=int, default=8)
    return parser.parse_args()


def _readers(source: str, target: str) -> list[tuple[str, Any]]:
    """(label, schedule or None for the model as it is)."""
    facts = read_facts(source)
    label = Path(source).name
    if is_scaled(facts):
        return [(label, None)]
    factor = parse_target(target, facts.original_length) / facts.original_length
    return [
        (
            f"{label}, {name}",
            ropewalk.schedule(name, facts.geometry, factor=1.0 if name == "none" else factor),
        )
        for name in SCHEDULES
    ]


def _measured(source: str, schedule: Any | None, given: argparse.Namespace) -> dict[str, float | None]:
    facts = read_facts(source)
    length = parse_target(given.target, facts.original_length)
    with quiet_transformers():
        model, tokenizer = load_model(source), load_tokenizer(source)
    with apply(model, schedule) if schedule is not None else nullcontext():
        result = ropewalk.evaluate(
            model,
            tokenizer=tokenizer,
            lengths=[facts.original_length, length],
            original_length=facts.original_length,
            tasks=["ppl", *TASKS],
            max_segments=given.segments,
            samples=given.samples,
            depths=3,
            grid="packed",
            reference=given.reference,
        )
    found: dict[str, float | None] = {
        "loss": next(row.tail_loss for row in result.loss if row.length == length),
        "key-token loss": result.key_token_loss,
    }
    for row in result.retrieval:
        if row["length"] == length:
            task = str(row["task"]).removesuffix("-packed")
            found.setdefault(task, 0.0)
            cells = [r for r in result.retrieval if r["task"] == row["task"] and r["length"] == length]
            found[task] = sum(r["accuracy"] * r["samples"] for r in cells) / sum(r["samples"] for r in cells)
    return found


def _show(rows: dict[str, Any]) -> None:
    keys = ["loss", "key-token loss", *TASKS]
    print("\n| reader | " + " | ".join(keys) + " |\n|---" * 1 + "|---" * len(keys) + "|")
    for name, row in rows.items():
        print(
            f"| {name} | " + " | ".join("-" if row.get(k) is None else f"{row[k]:.3f}" for k in keys) + " |"
        )
    print(
        f"\nRank correlation (Spearman) with {USE}, over the readers that have both; losses with their sign turned:\n"
    )
    for key in keys:
        both = [(row[key], row[USE]) for row in rows.values() if None not in (row.get(key), row.get(USE))]
        if key != USE and len(both) > 2:
            values = np.array(both)
            sign = -1 if "loss" in key else 1
            print(f"  {key:<16} {spearman(sign * values[:, 0], values[:, 1]):+.2f}  ({len(both)} readers)")


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing theirs; NaN where one of the two does not vary."""
    ranks = [_ranks(one), _ranks(other)]
    if min(float(rank.std()) for rank in ranks) == 0.0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([((values < value).sum() + (values <= value).sum() - 1) / 2 for value in values])


if __name__ == "__main__":
    main()
