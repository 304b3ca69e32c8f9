"""Sample runs of every kind, with the keys that the commands write: synthetic numbers, for tests alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ropewalk import RopeGeometry, schedule
from ropewalk.runs import create_run

LENGTHS = [512, 1024, 2048, 4096]
METHODS = ("yarn", "ntk", "by-parts", "linear")
HOSTILE = (
    '<script>window.hacked = 1</script><img src=x onerror="window.hacked=2"> </script> \u2028 $x^2$ %{x}'
)


def loss_rows(start: float, slope: float) -> list[dict[str, Any]]:
    """A made-up curve over LENGTHS."""
    rows = []
    for index, length in enumerate(LENGTHS):
        loss = start + slope * index
        rows.append(
            {"length": length, "loss": loss, "perplexity": math.exp(loss), "ci": [loss - 0.05, loss + 0.05]}
        )
    return rows


def eval_document(name: str = "tiny") -> dict[str, Any]:
    """The keys of `eval --json`."""
    return {
        "model": name,
        "original_length": 512,
        "loss": loss_rows(2.4, -0.05),
        "loss_by_position": [
            {"start": position, "end": position, "loss": 3.0 - 0.1 * math.log(position), "ci": [2.5, 3.1]}
            for position in range(1, 4097, 8)
        ],
        "controls": {"cropped": loss_rows(2.4, -0.02), "unmodified": loss_rows(2.4, 0.6)},
        "retrieval": [
            {
                "task": task,
                "length": length,
                "depth": depth,
                "accuracy": 1.0 - depth * length / 8192,
                "chance": 0.1,
            }
            for task in ("passkey", "needle")
            for length in LENGTHS
            for depth in (0.0, 0.5, 1.0)
        ],
        "health": {
            "attention": [
                {"layer": layer, "length": length, "entropy": 2.0 + layer / 4 + math.log(length) / 8}
                for layer in range(4)
                for length in LENGTHS
            ],
            "gradients": [{"length": length, "norm": 1.0 + length / 4096} for length in LENGTHS],
        },
        "effective_length": 4096,
        "effective": {
            "length": 4096,
            "threshold": 0.85,
            "short_score": 0.97,
            "evidence": [{"length": length, "retrieval": 0.9, "retrieval_holds": True} for length in LENGTHS],
            "why": "both hold at every tested length, up to 4k",
        },
    }


def compare_row(name: str, offset: float) -> dict[str, Any]:
    """One method of `compare --json`."""
    return {
        "name": name,
        "method": name,
        "factor": 8.0,
        "parameters": {},
        "needs_training": False,
        "same_as": [],
        "effective_factor": 8.0,
        "loss": loss_rows(2.4 + offset, -0.03),
        "loss_at_target": 2.31 + offset,
        "loss_in_window": 2.4 + offset / 2,
        "retrieval": [
            {"length": length, "depth": depth, "accuracy": max(0.0, 0.9 - offset - depth / 5), "samples": 4}
            for length in (512, 4096)
            for depth in (0.0, 0.5, 1.0)
        ],
        "retrieval_at_target": max(0.0, 0.8 - offset),
        "loss_vs_cropped": {"difference": offset - 0.03, "low": offset - 0.05, "high": offset - 0.01},
        "window_cost": {"difference": offset / 2, "low": offset / 2 - 0.01, "high": offset / 2 + 0.01},
        "seconds": 1.0,
    }


def compare_document(name: str = "tiny") -> dict[str, Any]:
    """The keys of `compare --json`."""
    return {
        "model": name,
        "original_length": 512,
        "target_length": 4096,
        "chance": 0.05,
        "methods": [compare_row(method, index / 10) for index, method in enumerate(METHODS)],
        "controls": {"unmodified": compare_row("unmodified", 0.7), "cropped": compare_row("cropped", 0.05)},
        "not_measured": [{"name": "drope", "why": "needs training"}],
        "verdict": {
            "text": "yarn",
            "retrieval": "yarn",
            "beats_cropping": True,
            "text_beats_cropping": ["yarn"],
            "retrieval_beats_cropping": [],
            "summary": "For text, yarn is best at 4k tokens.",
        },
    }


def write_eval(root: Path, name: str = "tiny", folder: str = "e1", **changes: Any) -> Path:
    """A finished eval run; a change to None leaves that key out."""
    document = {key: value for key, value in (eval_document(name) | changes).items() if value is not None}
    request = {"model": name, "lengths": LENGTHS, "tasks": ["ppl", "passkey"]}
    line = f"ropewalk eval {name} --lengths 512..4k"
    with create_run("eval", request, path=root / folder, command=line) as run:
        run.write_json("result.json", document)
    return run.path


def write_compare(root: Path, name: str = "tiny", folder: str = "c1") -> Path:
    """A finished compare run with its schedules."""
    geometry = RopeGeometry(64, 1e4, 512)
    with create_run("compare", {"model": name, "target_length": 4096}, path=root / folder) as run:
        for method in METHODS:
            made = schedule(method, geometry, factor=8)
            part = {"format": "ropewalk-compare-part/1", "name": method, "schedule": made.to_json()}
            run.write_json(f"parts/{method}.json", part)
        document = compare_document(name)
        if name == HOSTILE:
            document["methods"][-1]["name"] = HOSTILE
        run.write_json("result.json", document)
    return run.path


def write_train(root: Path, folder: str = "t1") -> Path:
    """A finished training run with three length stages."""
    lines: list[dict[str, Any]] = [{"step": 0, "kind": "evaluation", "loss": 2.9, "loss@512": 2.6}]
    for step in range(1, 91):
        stage = (step - 1) // 30
        line = {
            "step": step,
            "kind": "train",
            "loss": 3.0 - step / 90,
            "stage": stage,
            "length": 512 * 2**stage,
        }
        lines.append(line | {"tokens": step * 4096, "tokens_per_s": 7000.0 + step, "learning_rate": 1e-4})
        if step % 30 == 0:
            lines.append(
                {
                    "step": step,
                    "kind": "evaluation",
                    "loss": 2.9 - step / 100,
                    "loss@512": 2.5,
                    "loss@2048": 2.8,
                }
            )
    with create_run("train", {"recipe": "tiny.yaml", "seed": 0}, path=root / folder) as run:
        run.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        run.write_json(
            "result.json", {"run": folder, "checkpoints": ["step-90"], "final": {"loss": 2.0, "steps": 90}}
        )
    return run.path


def write_verify(root: Path, folder: str = "v1", detail: str = "max difference 0") -> Path:
    """A finished verification, one check of each status."""
    checks = [
        {"name": "active", "status": "pass", "detail": detail},
        {"name": "stock reload", "status": "fail", "detail": "logits differ by 0.2"},
        {"name": "vllm", "status": "skip", "detail": "not installed"},
    ]
    with create_run("verify", {"model": "out"}, path=root / folder) as run:
        run.write_json("result.json", {"checks": checks})
    return run.path


def write_tune(root: Path, folder: str = "u1") -> Path:
    """A finished search."""
    document = {
        "schedule": "s.json",
        "before": {"loss": 2.9},
        "after": {"loss": 2.7},
        "steps": 40,
        "seconds": 12.0,
    }
    with create_run("tune", {"model": "tiny", "target_length": 4096}, path=root / folder) as run:
        run.write_json("result.json", document | {"forward_equivalents": 160.0})
    return run.path
