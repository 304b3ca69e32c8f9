"""Training speed at equal length: seconds per step of `ropewalk train` beside transformers' Trainer, in turn.

CPU seconds of this process are counted (a longer run less a shorter one), which others on the machine disturb little;
`--clock` takes the clock's seconds instead, for a quiet machine.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import Comparison, compare_series, write_results
from train_model import plain_trainer, recipe

ROOT = Path(__file__).parents[1]
WARM = 2


def ours(work: Path, length: int, rows: int, steps: int) -> float:
    """The median seconds of a step, from the run's own metrics."""
    import ropewalk

    output = work / "run"
    ropewalk.train(
        recipe(work, length=length, rows=rows, steps=steps), output=output, device="cpu", quiet=True
    )
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if line["kind"] == "train"]
    shutil.rmtree(output)
    return statistics.median(b - a for a, b in zip(seconds[WARM - 1 :], seconds[WARM:]))


def theirs(work: Path, length: int, rows: int, steps: int) -> float:
    """The median seconds of a step, from the ends of steps."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            self.ends.append(time.monotonic())

    clock = Clock()
    plain_trainer(work, length=length, rows=rows, steps=steps, callbacks=[clock]).train()
    return statistics.median(b - a for a, b in zip(clock.ends[WARM - 1 :], clock.ends[WARM:]))


def cpu_seconds_of_ours(work: Path, length: int, rows: int, steps: int) -> float:
    """CPU seconds of a step: (a run of steps + WARM, less a run of WARM) / steps."""
    import ropewalk

    def run(count: int) -> float:
        made = recipe(work, length=length, rows=rows, steps=count)
        start = time.process_time()
        ropewalk.train(made, output=work / "run", device="cpu", quiet=True)
        spent = time.process_time() - start
        shutil.rmtree(work / "run")
        return spent

    return (run(steps + WARM) - run(WARM)) / steps


def cpu_seconds_of_theirs(work: Path, length: int, rows: int, steps: int) -> float:
    """The same for the plain Trainer."""

    def run(count: int) -> float:
        trainer = plain_trainer(work, length=length, rows=rows, steps=count, callbacks=[])
        start = time.process_time()
        trainer.train()
        return time.process_time() - start

    return (run(steps + WARM) - run(WARM)) / steps


def measure(length: int, rows: int, *, steps: int, runs: int, cpu: bool) -> Comparison:
    """Both in turn, `runs` times."""
    mine, plain = (cpu_seconds_of_ours, cpu_seconds_of_theirs) if cpu else (ours, theirs)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pairs = [(mine(work, length, rows, steps), plain(work, length, rows, steps)) for _ in range(runs)]
    return compare_series(
        f"train step {rows} x {length}",
        "CPU s" if cpu else "seconds",
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        target=">= 0.95",
        vocabulary=32768,
        steps=steps,
    )


def main() -> None:
    """Short and longer rows of the same number of tokens."""
    quick = "--quick" in sys.argv
    runs, steps = (1, 5) if quick else (3, 6)
    cpu = "--clock" not in sys.argv
    results = [
        measure(length, rows, steps=steps, runs=runs, cpu=cpu) for length, rows in ((512, 4), (2048, 1))
    ]
    write_results(results, ROOT / "bench" / "out" / "train_speed.json")


if __name__ == "__main__":
    main()
