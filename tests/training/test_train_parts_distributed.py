"""The parts of training on two gloo processes: the losses of one process, to five digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train_distributed import assert_two_are_one

Tiny = Callable[..., dict[str, Any]]

PARTS: dict[str, dict[str, Any]] = {
    "weights": {
        "weighting": {
            "long_tokens": {"context": 8},
            "shape": {"low": 0.5, "high": 1.5},
            "easy": {"below": 0.01},
        },
        "packing": {"boundaries": "block-diagonal"},
        "memory": {"checkpointing": True},
    },
    "lora": {"lora": {"rank": 4, "train_norms": True, "train_embeddings": True}},
    "adapter": {"lora": {"rank": 4, "train_norms": True, "save": "adapter"}},
    "temperature": {"temperature": {"rule": "per-head", "factor": 4.0, "learned": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "parts"),
    [
        ("ddp", "weights"),
        ("fsdp2", "weights"),
        ("ddp", "lora"),
        ("fsdp2", "lora"),
        ("fsdp2", "adapter"),
        ("ddp", "temperature"),
    ],
)
def test_two_processes_are_one(tiny: Tiny, tmp_path: Path, engine: str, parts: str) -> None:
    """One row in each micro-batch, so that the mean of its weights is over the same tokens everywhere."""

    def recipe(name: str) -> dict[str, Any]:
        made = tiny(
            stages=[{"length": 64, "steps": 4}],
            tokens_per_step=320,
            micro_batch_tokens=64,
            engine={"name": name},
            **PARTS[parts],
        )
        made["model"]["init"]["attention_dropout"] = 0.0
        if parts == "adapter":
            made["model"]["dtype"] = "bfloat16"
        return made

    assert_two_are_one(recipe("single"), recipe(engine), tmp_path)
