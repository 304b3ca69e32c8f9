"""A resumed run is the uninterrupted one, bit for bit; anything less is refused aloud."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import KILLER, Killed
from safetensors.torch import load_file

from ropewalk.errors import DamagedError, RopewalkError
from ropewalk.training import loop as loop_module
from ropewalk.training.metrics import read_metrics
from ropewalk.training.run import TrainResult, train

Tiny = Callable[..., dict[str, Any]]
CLOCKS = {"seconds", "tokens_per_s", "memory_bytes"}


class Stopped(BaseException):
    """The process died here."""


def staged(tiny: Tiny, **changes: Any) -> dict[str, Any]:
    """Three stages of three kinds, mixed lengths, long documents, dropout, an evaluation: everything that has state."""
    recipe = tiny(
        stages=[
            {"length": 32, "steps": 3, "mix": {64: 0.5}},
            {"length": 64, "until": {"every": 2, "plateau": 1, "at_most_steps": 4}},
            {"length": 128, "tokens": 500, "grow": {"from": 64}},
        ],
        evaluation={"every": 4, "tokens": 256},
    )
    recipe["data"]["long_documents"] = {"min_length": 400, "share": 0.5}
    recipe["evaluation"]["source"] = recipe["data"]["sources"][0]
    return recipe | changes


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def state_of(checkpoint: Path) -> dict[str, Any]:
    state = json.loads((checkpoint / "training" / "state.json").read_text())
    return {key: value for key, value in state.items() if key not in CLOCKS}


def assert_same_run(one: Path, other: Path) -> None:
    """Losses, weights, optimiser, stage, data position and random states, to the bit."""
    assert metrics_of(one) == metrics_of(other)
    checkpoints = [path.name for path in sorted((one / "checkpoints").iterdir())]
    assert checkpoints == [path.name for path in sorted((other / "checkpoints").iterdir())]
    for name in checkpoints:
        mine, theirs = one / "checkpoints" / name, other / "checkpoints" / name
        assert state_of(mine) == state_of(theirs)
        for file in ("model", "training/optimizer", "training/random"):
            tensors, twins = (
                load_file(mine / f"{file}.safetensors"),
                load_file(theirs / f"{file}.safetensors"),
            )
            assert tensors.keys() == twins.keys()
            for key, tensor in tensors.items():
                assert torch.equal(tensor, twins[key]), (name, file, key)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die after the optimiser step `step`, before anything of it is kept."""
    real = loop_module.Loop.end_step

    def end_step(self: Any) -> bool:
        if self.step == step:
            raise Stopped
        return real(self)

    monkeypatch.setattr(loop_module.Loop, "end_step", end_step)


def stopped_run(recipe: dict[str, Any], output: Path, step: int, *, resume: bool = False) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            train(recipe, output=output, resume=resume, quiet=True)


@pytest.fixture
def whole(tiny: Tiny, tmp_path: Path) -> TrainResult:
    return train(staged(tiny), output=tmp_path / "whole", quiet=True)


def test_resume_is_bit_for_bit(tiny: Tiny, tmp_path: Path, whole: TrainResult) -> None:
    output = tmp_path / "parts"
    stages = {line["stage"] for line in metrics_of(whole.run) if line["kind"] == "train"}
    assert stages == {0, 1, 2}
    for number, step in enumerate((2, 5, 7, 10)):
        stopped_run(staged(tiny), output, step, resume=number > 0)
    result = train(output=output, resume=True, quiet=True)
    assert_same_run(whole.run, output)
    assert result.final["loss"] == whole.final["loss"]


def test_a_finished_run_is_left_alone(tiny: Tiny, whole: TrainResult) -> None:
    before = (whole.run / "manifest.json").read_bytes()
    again = train(staged(tiny), output=whole.run, resume=True, quiet=True)
    assert again.to_json() == whole.to_json()
    assert (whole.run / "manifest.json").read_bytes() == before
    with pytest.raises(RopewalkError, match=r"finished.*tokens_per_step: 128 -> 256"):
        train(staged(tiny, tokens_per_step=256), output=whole.run, resume=True, quiet=True)


def test_a_taken_folder_needs_resume(tiny: Tiny, tmp_path: Path) -> None:
    stopped_run(tiny(), tmp_path / "run", 5)
    with pytest.raises(RopewalkError, match="--resume"):
        train(tiny(), output=tmp_path / "run", quiet=True)
    with pytest.raises(RopewalkError, match="no training run"):
        train(tiny(), output=tmp_path / "absent", resume=True, quiet=True)


def rewrite(path: Path, change: Callable[[bytearray], Any]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "has lost training/optimizer.safetensors": lambda path: (
        path / "training" / "optimizer.safetensors"
    ).unlink(),
    "training/state.json has": lambda path: (path / "training" / "state.json").write_text("{}"),
    "model.safetensors is not": lambda path: rewrite(
        path / "model.safetensors", lambda content: content.__setitem__(-9, content[-9] ^ 4)
    ),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_goes_back_aloud_and_ends_the_same(
    tiny: Tiny, tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = train(tiny(), output=tmp_path / "whole", quiet=True)
    output = tmp_path / "run"
    stopped_run(tiny(), output, 7)
    DAMAGES[words](output / "checkpoints" / "step-000006")
    train(tiny(), output=output, resume=True, quiet=True)
    said = capsys.readouterr().err
    assert f"step-000006: {words}" in said
    assert "going back to step-000003" in said
    assert_same_run(reference.run, output)


def test_the_only_checkpoint_damaged_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    stopped_run(tiny(), output, 4)
    DAMAGES["model.safetensors is not"](output / "checkpoints" / "step-000003")
    with pytest.raises(DamagedError, match="no whole checkpoint"):
        train(output=output, resume=True, quiet=True)


def test_a_changed_recipe_is_refused_unless_allowed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    stopped_run(tiny(), output, 5)
    changed = tiny(stages=[{"length": 32, "steps": 10}])
    with pytest.raises(RopewalkError, match=r"stages.0.steps: 8 -> 10.*allow-changes"):
        train(changed, output=output, resume=True, quiet=True)
    cosmetic = tiny(log_every=2, about="words", checkpoints={"every": 4})
    result = train(cosmetic, output=output, resume=True, quiet=True)
    assert result.final["step"] == 8
    output = tmp_path / "other"
    stopped_run(tiny(), output, 5)
    result = train(changed, output=output, resume=True, allow_changes=True, quiet=True)
    assert result.final["step"] == 10
    assert "CHANGED since the run began: stages.0.steps: 8 -> 10" in capsys.readouterr().err


def test_changed_data_is_refused(tiny: Tiny, tmp_path: Path, text_folder: Path) -> None:
    texts = tmp_path / "texts"
    shutil.copytree(text_folder, texts)
    recipe = tiny()
    recipe["data"]["sources"][0]["paths"] = [str(texts)]
    output = tmp_path / "run"
    stopped_run(recipe, output, 5)
    (texts / "03.txt").write_text("something else")
    with pytest.raises(RopewalkError, match=r"data of source text: \w{12} -> \w{12}"):
        train(recipe, output=output, resume=True, quiet=True)


def test_a_poisoned_weight_stops_with_step_documents_and_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        real = loop_module.Loop.end_step

        def end_step(self: Any) -> bool:
            if self.step == 5:
                with torch.no_grad():
                    self.model.get_input_embeddings().weight.fill_(math.nan)
            return real(self)

        patch.setattr(loop_module.Loop, "end_step", end_step)
        with pytest.raises(
            RopewalkError, match=r"step 6: the loss is nan; documents of the batch: text:.*step-000003"
        ):
            train(tiny(), output=output, quiet=True)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert train(output=output, resume=True, quiet=True).final["step"] == 8


def test_an_infinite_gradient_stops_before_the_step(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        real = loop_module.Loop.objective

        def objective(self: Any, model: Any, batch: Any) -> torch.Tensor:
            loss = real(self, model, batch)
            loss.register_hook(lambda gradient: gradient * (math.inf if self.step == 4 else 1.0))
            return loss

        patch.setattr(loop_module.Loop, "objective", objective)
        with pytest.raises(RopewalkError, match=r"step 5: the gradient's norm is (nan|inf)"):
            train(tiny(), output=tmp_path / "run", quiet=True)


def test_optimizer_state_that_does_not_fit_is_named(tiny: Tiny, tmp_path: Path) -> None:
    from ropewalk.training.state.weights import put_optimizer

    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    state = {"a::step": torch.tensor(1.0), "a::exp_avg": torch.zeros(2), "a::exp_avg_sq": torch.zeros(2)}
    put_optimizer(optimizer, {id(parameter): "a"}, state)
    with pytest.raises(DamagedError, match="does not fit the model: b"):
        put_optimizer(optimizer, {id(parameter): "b"}, state)


def test_steps_are_counted_where_the_optimiser_reads_them() -> None:
    from types import SimpleNamespace

    from ropewalk.training.state.weights import counting_devices, put_optimizer

    # The meta device stands for a GPU: no other is on every machine.
    parameters = [torch.nn.Parameter(torch.zeros(2, device="meta")) for _ in range(3)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:2], "fused": True}]
    optimizer: Any = SimpleNamespace(param_groups=[*groups, {"params": parameters[2:], "capturable": True}])
    found = counting_devices(optimizer)
    assert [found[id(parameter)].type for parameter in parameters] == ["cpu", "meta", "meta"]
    # What is put back is a copy: the next step would otherwise count in the checkpoint's own tensor.
    parameter = torch.nn.Parameter(torch.zeros(2))
    plain, step = torch.optim.AdamW([parameter]), torch.tensor(3.0)
    put_optimizer(plain, {id(parameter): "a"}, {"a::step": step})
    kept = plain.state[parameter]["step"]
    assert (kept.item(), kept.data_ptr() != step.data_ptr()) == (3.0, True)


def test_moments_in_shards_are_not_given_to_another_optimiser(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from ropewalk.training.running import Running
    from ropewalk.training.state.random_state import gathered_random
    from ropewalk.training.state.sharded import begin_writing, own_tensors
    from ropewalk.training.state.weights import write_training

    model = torch.nn.Linear(2, 2)
    before = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    before.step()
    (tmp_path / "training" / "shards").mkdir(parents=True)
    begin_writing(tmp_path, own_tensors(model, before), None).result()
    documents, random_tensors = gathered_random(1)
    state = {"optimizer": "adamw", "random": documents, "trained_stage": 0, "data": {}, "documents": 0}
    write_training(tmp_path, None, random_tensors, state | {"loss_sum": 0.0, "loss_steps": 0})

    def resumed(name: str) -> tuple[list[str], Any, Any]:
        told: list[str] = []
        fresh = torch.nn.Linear(2, 2)
        running: Any = SimpleNamespace(
            recipe=SimpleNamespace(optimizer=SimpleNamespace(name=name)),
            model=fresh,
            optimizer=torch.optim.AdamW(fresh.parameters()),
            progress=SimpleNamespace(warn=told.append),
            mixture=SimpleNamespace(share=lambda _: None, restore=lambda _: None),
            curriculum=SimpleNamespace(stages=[SimpleNamespace(sources=None)]),
            engine=SimpleNamespace(rank=0),
            _restore_counters=lambda _: None,
        )
        Running.restore(running, tmp_path)
        return told, fresh, running.optimizer

    told, same, optimizer = resumed("adamw")
    assert told == []
    assert torch.equal(optimizer.state[same.weight]["exp_avg"], before.state[model.weight]["exp_avg"])
    told, other, optimizer = resumed("adamw-8bit")
    assert told == ["the state of adamw is of no use to adamw-8bit: the optimiser starts anew"]
    assert torch.equal(other.weight, model.weight)
    assert not optimizer.state


def test_a_run_that_an_evaluation_ends_logs_its_last_step(tiny: Tiny, tmp_path: Path) -> None:
    until = {"loss_below": 100.0, "times": 3, "at_most_steps": 50, "measure": "evaluation"}
    recipe = tiny(
        stages=[{"length": 32, "until": until}],
        evaluation={"every": 2, "lengths": [32], "tokens": 64},
        log_every=5,
    )
    result = train(recipe, output=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result.final["step"] == 6
    assert [line["step"] for line in lines if line["kind"] == "train"] == [5, 6]
    assert lines[-1]["loss"] == pytest.approx(result.final["loss"])


def test_checkpoints_load_in_stock_software(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = train(tiny(), output=tmp_path / "run", quiet=True)
    model, info = AutoModelForCausalLM.from_pretrained(result.final["path"], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(result.final["path"])
    assert model(**tokenizer("rope walk", return_tensors="pt")).logits.isfinite().all()


def test_no_pickle_in_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    result = train(tiny(), output=tmp_path / "run", quiet=True)
    kinds = {path.suffix for path in Path(result.final["path"]).rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".txt"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_at_every_change_of_the_disk_of_a_run(tiny: Tiny, tmp_path: Path) -> None:
    """The whole run: folder, metrics, checkpoints, pruning, result. Resumed once, it is the uninterrupted one."""
    recipe = tiny(stages=[{"length": 32, "steps": 4}], checkpoints={"every": 2, "keep_last": 1})
    with KILLER.watching(tmp_path / "whole") as killer:
        train(recipe, output=tmp_path / "whole", quiet=True)
    assert killer.count > 60
    for number in range(1, killer.count + 1):
        output = tmp_path / f"run-{number}"
        with pytest.raises(Killed), KILLER.watching(output, at=number):
            train(recipe, output=output, quiet=True)
        try:
            train(recipe, output=output, resume=output.exists(), quiet=True)
        except RopewalkError as error:
            raise RuntimeError(f"killed at {number}: {error}") from error
        assert_same_run(tmp_path / "whole", output)
        shutil.rmtree(output)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")
def test_fifty_random_kills_lose_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """SIGKILL at random moments, start-up and saves included; every run ends as the uninterrupted one, to the bit."""
    recipe = staged(tiny, checkpoints={"every": 1, "keep_last": 2})
    recipe["stages"][0]["steps"] = 20
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    script = Path(__file__).parent / "random_kills.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "recipe.json"), str(tmp_path), "50", "7"],
        capture_output=True,
        text=True,
        timeout=1500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    assert counts["kills"] == 50
    for number in range(counts["runs"]):
        assert_same_run(tmp_path / "whole", tmp_path / f"run-{number}")
    print(counts)


def test_a_run_without_its_run_json(tiny: Tiny, tmp_path: Path) -> None:
    """Killed before run.json it starts anew; with checkpoints and no run.json it is damaged, and nothing is lost."""
    output = tmp_path / "run"
    stopped_run(tiny(), output, 2)
    (output / "run.json").unlink()
    result = train(output=output, resume=True, quiet=True)
    assert result.final["step"] == 8
    output = tmp_path / "other"
    stopped_run(tiny(), output, 5)
    (output / "run.json").unlink()
    with pytest.raises(DamagedError, match=r"checkpoints and no run.json"):
        train(output=output, resume=True, quiet=True)
    assert (output / "checkpoints" / "step-000003").is_dir()


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "gpt_neox": {},
    "phi3": {"pad_token_id": 0},
}


@pytest.mark.parametrize(
    "kind",
    [name if name == "mixtral" else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def test_architectures_whose_files_are_laid_out_otherwise_resume(
    tiny: Tiny, tmp_path: Path, kind: str
) -> None:
    """Fused experts, fused projections, scaled embeddings: what the files hold is not what the modules are called."""
    recipe = tiny(stages=[{"length": 32, "steps": 3}], checkpoints={"every": 1, "keep_last": None})
    recipe["model"]["init"] |= {"model_type": kind, "tie_word_embeddings": False, **ARCHITECTURES[kind]}
    train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 2)
    train(recipe, output=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
