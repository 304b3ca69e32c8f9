"""Two gloo processes in one launch of seconds: losses, gradients and weights are those of one process.

Gradients are compared by their norm as well: an optimiser that divides by the gradient's size would hide a factor.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_distributed import free_port
from test_train_resume import metrics_of
from tinymodels import small_model

from ropewalk.errors import DamagedError
from ropewalk.models.facts import read_facts
from ropewalk.plan import shape_of
from ropewalk.planning.memory import TrainingSetting, training_memory
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
PARTS = {"every": 1, "keep_last": None, "format": "sharded"}
CHANGES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": {"name": "ddp"}, "weighting": {"input_noise": {"share": 0.2}}},
    "fsdp2": {"engine": {"name": "fsdp2"}, "weighting": {"easy": {"below": 4.5}}},
    "lora": {"engine": {"name": "fsdp2"}, "lora": {"rank": 2, "train_norms": True}},
    "context": {"engine": {"name": "ddp", "context_parallel": 2}, **SHARED},
    "sequence": {"engine": {"name": "fsdp2", "sequence_parallel": 2}, **SHARED},
    "bfloat16": {"engine": {"name": "ddp", "context_parallel": 2}, "precision": "bfloat16", **SHARED},
    # From a checkpoint, read part by part; checkpoints in parts, written while training goes on.
    "parts": {"engine": {"name": "fsdp2"}, "checkpoints": PARTS, "packing": {"boundaries": "block-diagonal"}},
    # Adapters beside a base of which each process reads its own rows; norms and embeddings trained in full.
    "lora-loaded": {
        "engine": {"name": "fsdp2"},
        "lora": {"rank": 2, "train_norms": True, "train_embeddings": True},
        "packing": {"boundaries": "block-diagonal"},
        "checkpoints": {"every": 1, "keep_last": None},
    },
    "lora-parts": {
        "engine": {"name": "fsdp2"},
        "lora": {"rank": 2, "train_norms": True},
        "checkpoints": PARTS,
    },
    "bfloat16-parts": {"engine": {"name": "fsdp2"}, "checkpoints": PARTS, "precision": "bfloat16"},
}
LOADED = ("parts", "lora-loaded", "lora-parts", "bfloat16-parts")


def recipe_of(name: str, base: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = copy.deepcopy(base | SHORT | CHANGES[name] | more)
    if name in LOADED:
        made["model"] = {}
    else:
        made["model"]["init"] |= {"attention_dropout": 0.0, "num_key_value_heads": 2}
    made["evaluation"] = {"every": 2, "tokens": 64, "lengths": [32], "source": made["data"]["sources"][0]}
    return made


def save_loaded(folder: Path, tokenizer: Path) -> None:
    """A model folder with tied weights and a norm that is not all ones."""
    from transformers import AutoTokenizer

    model = small_model(vocab_size=257, hidden_size=16, intermediate_size=32, tie_word_embeddings=True)
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 1.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def save_short(folder: Path) -> Path:
    """Documents of 4 to 23 tokens: several in each row of 32, with borders inside both processes' slices."""
    folder.mkdir()
    for number in range(60):
        text = "hemp twist pull lane spin"[: 3 + number * 7 % 20]
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Path, text_folder: Path) -> Any:
    """(folder of the runs of two processes, folder of the same runs in one), made once for all workers of a session."""
    root = tmp_path_factory.getbasetemp()
    # Beside the folders of the workers, where there are several.
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "two-processes"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            train_all(folder, byte_tokenizer, text_folder)
            (folder / "done").touch()
    return folder / "two", folder / "one"


def train_all(folder: Path, byte_tokenizer: Path, text_folder: Path) -> None:
    """Every recipe in one launch of two processes, and meanwhile each in this one."""
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
    save_loaded(folder / "loaded", byte_tokenizer)
    recipes = {name: recipe_of(name, base) for name in CHANGES}
    short = save_short(folder / "short")
    for name in ("context", "sequence"):
        recipes[name]["data"]["sources"][0]["paths"] = [str(short)]
    for name in LOADED:
        recipes[name]["model"] = {"path": str(folder / "loaded")}
    dropping = recipe_of("ddp", base, checkpoints={"every": 1, "keep_last": None})
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
            single = recipes[name] | {"engine": {"name": "single"}, "checkpoints": SHORT["checkpoints"]}
            train(single, output=folder / "one" / name, quiet=True, device="cpu")
        done.wait(timeout=600)
    finally:
        done.kill()
    told = (folder / "errors").read_text()
    assert done.returncode == 0, told[-4000:]
    assert "loads the whole model" not in told


@pytest.mark.parametrize("name", CHANGES)
def test_two_processes_are_one(runs: Any, name: str) -> None:
    two, one = (metrics_of(folder / name) for folder in runs)
    assert [line["step"] for line in one] == [0, 1, 2, 2]
    loose = 2e-2 if name.startswith("bfloat16") else 1e-5
    for mine, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=loose)
        if mine["kind"] == "train":
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=10 * loose)
            assert theirs["tokens"] == mine["tokens"]
    if name.startswith("bfloat16"):
        return
    for file in (runs[1] / name).glob("checkpoints/*/*.safetensors"):
        twin = load_file(runs[0] / name / file.relative_to(runs[1] / name))
        for key, tensor in load_file(file).items():
            torch.testing.assert_close(twin[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "shards"), [("ddp", 1), ("fsdp2", 2), ("parts", 2)])
def test_a_process_holds_what_the_plan_counts(runs: Any, name: str, shards: int) -> None:
    """Parameters, gradients and moments, byte for byte where rows divide by two; gradients that wait for the rest of a
    step are split as well. What the plan has besides is the layer that is gathered for the moment of its use."""
    loaded = name in LOADED
    config = json.loads((runs[0] / name / "checkpoints/step-000002/config.json").read_text())
    shape = shape_of(read_facts(config))
    counted = training_memory(shape, 32, TrainingSetting(dtype="float32", shards=shards))
    gathered = max(shape.layer_parameters, shape.embedding_parameters) * 4 if shards > 1 else 0
    # 257 rows of an embedding do not divide: the first process has one more than the second.
    tables = 1 if loaded else 2
    for rank, uneven in ((0, 1), (1, -1)):
        found = json.loads((runs[0] / f"{name}-bytes-{rank}.json").read_text())
        more = uneven * tables * 16 * 4 // 2 if shards > 1 else 0
        assert found["parameters"] == counted.weights - gathered + more
        assert found["gradients"] == found["waiting"] == counted.gradients + more
        assert found["optimiser"] == counted.optimiser + 2 * more


def test_dropout_differs_between_processes(runs: Any) -> None:
    file = runs[0] / "dropping/checkpoints/step-000002/training/random.safetensors"
    states = load_file(file)
    assert not torch.equal(states["0/torch"], states["1/torch"])


@pytest.mark.parametrize("name", ["dropping", "lora-loaded"])
def test_a_resumed_process_goes_on_with_its_own_random_state(runs: Any, name: str) -> None:
    """Taken up after step 1, dropout in step 2 falls where it fell: in the second process as in the first.

    Of adapters over a split base, what was trained comes from the checkpoint, everything else from the base's files.
    """
    for kind in ("model", "training/optimizer", "training/random"):
        file = f"checkpoints/step-000002/{kind}.safetensors"
        whole, resumed = (load_file(runs[0] / run / file) for run in (name, f"{name}-resumed"))
        assert whole.keys() == resumed.keys()
        for key, tensor in whole.items():
            assert torch.equal(resumed[key], tensor), f"{kind}: {key}"


def test_parts_go_on_in_one_process(runs: Any, tmp_path: Path) -> None:
    """Killed after step 1: one process reads what two wrote in parts, and ends where one that never stopped did."""
    two, one = (folder / "parts" for folder in runs)
    first = two / "checkpoints/step-000001"
    assert len(list((first / "training/shards").glob("*.safetensors"))) == 2
    assert not (first / "config.json").exists()
    assert not [path for path in two.rglob("*") if path.suffix in (".pt", ".pkl", ".distcp", ".metadata")]
    shutil.copytree(two, tmp_path / "run")
    for name in ("checkpoints/step-000002", "result.json", "manifest.json"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    recipe = json.loads((two / "request.json").read_text())["request"]["recipe"]
    recipe |= {"engine": {"name": "single"}, "checkpoints": SHORT["checkpoints"]}
    done = train(recipe, output=tmp_path / "run", resume=True, quiet=True, device="cpu")
    assert done.final["loss"] == pytest.approx(metrics_of(one)[-2]["loss"], rel=1e-5)
    for name in ("model", "training/optimizer"):
        file = f"checkpoints/step-000002/{name}.safetensors"
        twin = load_file(one / file)
        for key, tensor in load_file(tmp_path / "run" / file).items():
            torch.testing.assert_close(tensor, twin[key], rtol=1e-3, atol=1e-4)


def test_a_shard_that_is_damaged_is_never_read(runs: Any, tmp_path: Path) -> None:
    shutil.copytree(runs[0] / "parts", tmp_path / "run")
    for name in ("result.json", "manifest.json"):
        (tmp_path / "run" / name).unlink()
    for step in (1, 2):
        [first, _] = sorted((tmp_path / f"run/checkpoints/step-00000{step}").rglob("shard-*"))
        content = bytearray(first.read_bytes())
        content[-1] ^= 1
        first.write_bytes(content)
    recipe = json.loads((tmp_path / "run/request.json").read_text())["request"]["recipe"]
    recipe |= {"engine": {"name": "single"}, "checkpoints": SHORT["checkpoints"]}
    with pytest.raises(DamagedError, match="no whole checkpoint"):
        train(recipe, output=tmp_path / "run", resume=True, quiet=True, device="cpu")
