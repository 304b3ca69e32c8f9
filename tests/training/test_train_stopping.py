"""Stopped by a signal, by another process, by a full disk, by a value that means nothing: each in words."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_train_resume import assert_same_run

from ropewalk.errors import RopewalkError
from ropewalk.runs.lock import run_lock
from ropewalk.training import loop as loop_module
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.run import train
from ropewalk.training.state import checkpoint
from ropewalk.training.stopping import Stopped

Tiny = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_at_the_end_of_the_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    train(tiny(), output=tmp_path / "whole", quiet=True)
    real = loop_module.Loop.next_batch

    def next_batch(self: Any) -> Any:
        if self.step == 4:
            os.kill(os.getpid(), number)
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Loop, "next_batch", next_batch)
        before = signal.getsignal(number)
        with pytest.raises(Stopped) as stopped:
            train(tiny(), output=tmp_path / "run", quiet=True)
        assert signal.getsignal(number) is before
    assert stopped.value.code == code
    assert (tmp_path / "run" / "checkpoints" / "step-000005").is_dir()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    train(output=tmp_path / "run", resume=True, quiet=True)
    saved = tmp_path / "run" / "checkpoints" / "step-000005"
    for path in sorted(saved.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    saved.rmdir()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_command_line_ends_with_143_and_the_line_that_resumes(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny(stages=[{"length": 32, "steps": 4000}])))
    command = [sys.executable, "-m", "ropewalk", "train", str(path), "-o", str(tmp_path / "run")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.2)
    running.terminate()
    errors = running.communicate(timeout=60)[1]
    assert running.returncode == 143, errors[-2000:]
    assert f"ropewalk train --resume -o {tmp_path / 'run'}` goes on from here" in errors
    assert not list(tmp_path.glob(".*.lock"))


def test_two_processes_on_one_folder(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with (
        run_lock(output),
        pytest.raises(RopewalkError, match=rf"is being written by process {os.getpid()} on"),
    ):
        train(tiny(), output=output, quiet=True)
    # What was refused left nothing, and the lock is gone with its owner.
    assert train(tiny(), output=output, quiet=True).final["step"] == 8
    assert not list(tmp_path.glob(".*.lock"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("No space left")]
)
def test_a_full_disk_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    output = tmp_path / "run"
    real = checkpoint.write_json

    def full(path: Path, document: Any) -> None:
        if path.name == "manifest.json" and document["step"] == 6:
            raise error
        real(path, document)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(RopewalkError, match=r"no room for checkpoint step-000006: .* are free"):
            train(tiny(), output=output, quiet=True)
    assert [path.name for path in sorted((output / "checkpoints").iterdir())] == ["step-000003"]
    assert train(output=output, resume=True, quiet=True).final["step"] == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"length": 32, "steps": True}]}, "stages.0.steps: write a number, not true"),
        ({"optimizer": {"betas": [1, 1]}}, r"optimizer.betas.0: Input should be less than 1"),
        ({"optimizer": {"lr": 1e-4}}, "optimizer.lr: no such key; it is called learning_rate here"),
        ({"rope": {"method": "yarn", "schedule": "x.json", "factor": 2}}, "either method or schedule"),
    ],
)
def test_values_that_mean_nothing(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RopewalkError, match=words):
        read_recipe(tiny(**changes))


def test_settings_without_effect_are_said(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(
        stages=[{"length": 32, "steps": 1}, {"length": 64, "steps": 1}],
        rope={"method": "yarn", "target_length": 64, "follow": "stage"},
        positions={"kind": "pose"},
        optimizer={"warmup_steps": 2},
    )
    train(recipe, output=tmp_path / "run", quiet=True)
    said = capsys.readouterr().err
    assert "stages.0: positions pose skips nothing, rows and schedule have both 32 tokens" in said
    assert "optimizer.warmup_steps=2 is not shorter than the run of 2 steps" in said


def test_an_evaluation_without_enough_text_speaks_of_the_recipe(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(evaluation={"every": 2, "lengths": [1000000]})
    recipe["evaluation"]["source"] = recipe["data"]["sources"][0]
    with pytest.raises(RopewalkError, match=r"evaluation: .*evaluation.source more text"):
        train(recipe, output=tmp_path / "run", quiet=True)


def test_a_claim_without_a_request_is_no_run_yet(tiny: Tiny, tmp_path: Path) -> None:
    """Killed between the making of its request file and the writing of it."""
    output = tmp_path / "run"
    output.mkdir()
    (output / "request.json").touch()
    (output / ".request.json.x.tmp").touch()
    assert train(tiny(), output=output, resume=True, quiet=True).final["step"] == 8
