"""The parts of training on two gloo processes: the losses of one process, to five digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_train_distributed import launch
from test_train_resume import metrics_of

from ropewalk.training.run import train

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

    single = train(recipe("single"), output=tmp_path / "single", quiet=True, device="cpu")
    done = launch(recipe(engine), tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = metrics_of(single.run), metrics_of(tmp_path / "two")
    assert len(mine) == len(theirs) == 4
    for one, two in zip(mine, theirs):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    files = sorted(path.relative_to(single.run) for path in single.run.glob("checkpoints/*/*.safetensors"))
    assert files
    for file in files:
        one, two = load_file(single.run / file), load_file(tmp_path / "two" / file)
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert tensor.isclose(two[name], rtol=1e-3, atol=1e-4).all(), name
