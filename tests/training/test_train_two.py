"""Two gloo processes in one launch of seconds: losses, gradients and weights are those of one process.

Gradients are compared by their norm as well: an optimiser that divides by the gradient's size would hide a factor.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_distributed import free_port
from test_train_resume import metrics_of

from ropewalk.training.run import train

SCRIPT = Path(__file__).parent / "two_processes.py"
SHORT = {
    "stages": [{"length": 32, "steps": 2, "mix": {16: 0.3}}],
    "tokens_per_step": 176,
    "micro_batch_tokens": 32,
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
    "checkpoints": {"every": 2, "keep_last": None},
    "log_every": 1,
}
SHARED = {"tokens_per_step": 128, "micro_batch_tokens": 64, "packing": {"boundaries": "block-diagonal"}}
CHANGES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": {"name": "ddp"}, "weighting": {"input_noise": {"share": 0.2}}},
    "fsdp2": {"engine": {"name": "fsdp2"}, "weighting": {"easy": {"below": 4.5}}},
    "lora": {"engine": {"name": "fsdp2"}, "lora": {"rank": 2, "train_norms": True}},
    "context": {"engine": {"name": "ddp", "context_parallel": 2}, **SHARED},
    "sequence": {"engine": {"name": "fsdp2", "sequence_parallel": 2}, **SHARED},
    "bfloat16": {"engine": {"name": "ddp", "context_parallel": 2}, "precision": "bfloat16", **SHARED},
}


def recipe_of(name: str, base: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = copy.deepcopy(base | SHORT | CHANGES[name] | more)
    made["model"]["init"] |= {"attention_dropout": 0.0, "num_key_value_heads": 2}
    made["evaluation"] = {"every": 2, "tokens": 64, "lengths": [32], "source": made["data"]["sources"][0]}
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Path, text_folder: Path) -> Any:
    """(folder of the runs of two processes, folder of the same runs in one)."""
    folder = tmp_path_factory.mktemp("two")
    base = {
        "model": {
            "init": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
            },
            "tokenizer": str(byte_tokenizer),
        },
        "data": {"sources": [{"name": "text", "kind": "text", "paths": [str(text_folder)]}]},
    }
    recipes = {name: recipe_of(name, base) for name in CHANGES}
    dropping = recipe_of("ddp", base)
    dropping["model"]["init"]["attention_dropout"] = 0.2
    path = folder / "recipes.json"
    path.write_text(json.dumps(recipes | {"dropping": dropping}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "--master_port", str(free_port()), str(SCRIPT), str(path), str(folder / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "errors").open("w") as errors:
        done = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
    try:
        for name in recipes:
            single = recipes[name] | {"engine": {"name": "single"}}
            train(single, output=folder / "one" / name, quiet=True, device="cpu")
        done.wait(timeout=600)
    finally:
        done.kill()
    assert done.returncode == 0, (folder / "errors").read_text()[-4000:]
    return folder / "two", folder / "one"


@pytest.mark.parametrize("name", CHANGES)
def test_two_processes_are_one(runs: Any, name: str) -> None:
    two, one = (metrics_of(folder / name) for folder in runs)
    assert [line["step"] for line in one] == [0, 1, 2, 2]
    loose = 2e-2 if name == "bfloat16" else 1e-5
    for mine, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=loose)
        if mine["kind"] == "train":
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=10 * loose)
            assert theirs["tokens"] == mine["tokens"]
    if name == "bfloat16":
        return
    for file in (runs[1] / name).glob("checkpoints/*/*.safetensors"):
        twin = load_file(runs[0] / name / file.relative_to(runs[1] / name))
        for key, tensor in load_file(file).items():
            torch.testing.assert_close(twin[key], tensor, rtol=1e-3, atol=1e-4)


def test_dropout_differs_between_processes(runs: Any) -> None:
    [file] = runs[0].glob("dropping/checkpoints/*/training/random.safetensors")
    states = load_file(file)
    assert not torch.equal(states["0/torch"], states["1/torch"])
