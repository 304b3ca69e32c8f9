"""The parts inside whole runs: everything at once survives an interruption bit for bit, and wrong pairs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ropewalk
from ropewalk.errors import UsageError

Tiny = Callable[..., dict[str, Any]]

EVERYTHING: dict[str, Any] = {
    "rope": {"method": "yarn", "target_length": 128},
    "positions": {"kind": "pose"},
    "packing": {"boundaries": "block-diagonal"},
    "weighting": {
        "shape": {"shape": "ramp", "low": 0.5, "high": 1.5},
        "long_tokens": {"context": 8},
        "near": {"tokens": 2},
        "easy": {"quantile": 0.1},
        "input_noise": {"share": 0.1},
        "far_drop": {"share": 0.3, "near": 12},
    },
    "memory": {"checkpointing": True, "offload": "disk", "offload_smallest": 2048},
    "loss": {"engine": "chunked", "chunk": 16},
}


@pytest.fixture(autouse=True)
def _any_folder_is_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.training.parts.memory.activations._refuse_memory", lambda root: None)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_everything_at_once_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(**EVERYTHING, stages=[{"length": 32, "steps": 5}])
    recipe["evaluation"] = {"every": 4, "tokens": 32, "source": recipe["data"]["sources"][0]}
    whole = ropewalk.train(recipe, output=tmp_path / "whole", device="cpu", quiet=True)
    assert not (tmp_path / "whole" / "activations").exists()

    def stop(model: Any, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ropewalk.train(recipe, output=tmp_path / "broken", device="cpu", quiet=True, evaluate=stop)
    again = ropewalk.train(recipe, output=tmp_path / "broken", resume=True, device="cpu", quiet=True)
    assert _losses(again.run) == _losses(whole.run)
    first, second = (load_file(run.checkpoints[-1] / "model.safetensors") for run in (again, whole))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_chunked_loss_trains_as_the_plain_one(tiny: Tiny, tmp_path: Path) -> None:
    found = []
    for engine in ("chunked", "plain"):
        recipe = tiny(loss={"engine": engine, "chunk": 16}, packing={"boundaries": "block-diagonal"})
        found.append(_losses(ropewalk.train(recipe, output=tmp_path / engine, device="cpu", quiet=True).run))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][-1] < found[0][0] - 0.05


def test_positions_beyond_the_schedule_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(
        rope={"method": "yarn", "target_length": 64}, positions={"kind": "pose", "target_length": 128}
    )
    with pytest.raises(UsageError, match="positions reach 128, beyond the 64"):
        ropewalk.train(recipe, output=tmp_path / "run", device="cpu", quiet=True)
