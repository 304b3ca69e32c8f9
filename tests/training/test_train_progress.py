"""The progress line, and the metrics file."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest

from ropewalk.planning.shape import ModelShape
from ropewalk.training.metrics import Metrics, read_metrics
from ropewalk.training.progress import Progress
from ropewalk.training.speed import Utilisation, peak_flops


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def walk(progress: Progress, steps: int = 3) -> str:
    for step in range(1, steps + 1):
        last = step == steps
        progress.step(step, steps, loss=2.5, stage="1/2", length=2048, tokens_per_s=12345.6, final=last)
    progress.close()
    stream = progress.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    text = walk(Progress(stream=Terminal()))
    assert text.count("\n") == 1
    assert text.count("\r") >= 2
    last = text.rsplit("\r", 1)[1]
    for word in ("step 3/3", "loss 2.5000", "stage 1/2 (2k)", "12,346 tokens/s", "iB", "left 0.0 s"):
        assert word in last


def test_the_share_of_a_known_device_is_counted_by_hand() -> None:
    """6 operations a parameter and token, 4 where it is frozen; 6 * (query + output width) * keys for attention."""
    shape = ModelShape(1, 4, 8, 10, 1, 1, 4, parameters=1000, tie_embeddings=True)
    attention = 6 * (4 + 4) * (8 + 1) / 2 * 8
    used = Utilisation(shape, peak=1e6)
    used.count([8, 8])
    assert used.taken(0.5) == pytest.approx(2 * (6 * 1000 * 8 + attention) / 0.5 / 1e6)
    assert used.taken(0.5) == 0
    frozen = Utilisation(shape, peak=1e6, frozen=1000)
    frozen.count([8])
    assert frozen.taken(1.0) == pytest.approx((4 * 1000 * 8 + attention) / 1e6)
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Tesla T4") is None
    line = walk(Progress(stream=Terminal(), mfu=0.413))
    assert "tokens/s  MFU 41%  " in line


def test_a_file_gets_few_lines() -> None:
    lines = walk(Progress(stream=io.StringIO()), steps=50).splitlines()
    assert [line.split()[1] for line in lines] == ["1/50", "50/50"]
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_quiet_says_nothing_but_warnings() -> None:
    progress = Progress(quiet=True, stream=io.StringIO())
    progress.say("a remark")
    assert walk(progress) == ""
    progress.warn("a checkpoint is damaged")
    assert progress.stream.getvalue() == "ropewalk: a checkpoint is damaged\n"


def test_a_remark_ends_the_line_first() -> None:
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.step(1, 2, loss=1.0, stage="1/1", length=64, tokens_per_s=1.0)
    progress.say("stage 2")
    assert stream.getvalue().endswith("left -\nstage 2\n")


def test_metrics_are_cut_back_to_the_step_of_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.open(after_step=0)
    for step in (1, 2, 3):
        metrics.write({"step": step, "kind": "train", "loss": math.nan if step == 2 else 0.1 * step})
    metrics.close()
    with path.open("a") as stream:
        stream.write('{"step": 4, "ki')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    metrics.open(after_step=2)
    metrics.write({"step": 3, "kind": "train", "loss": 7.0})
    metrics.close()
    lines = read_metrics(path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["loss"] == pytest.approx(0.1)
    assert lines[1]["loss"] is None
    assert lines[2]["loss"] == 7.0
