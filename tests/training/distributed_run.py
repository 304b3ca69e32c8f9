"""One training run, on every process: `distributed_run.py RECIPE.json OUTPUT [resume] [stop=STEP] [device=cuda]`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from counted_bytes import Counting


def main(recipe: str, output: str, *words: str) -> None:
    torch.set_num_threads(1)
    from ropewalk.training import loop
    from ropewalk.training.run import train

    stop = next((int(word.removeprefix("stop=")) for word in words if word.startswith("stop=")), None)
    real = loop.Loop.end_step

    def end_step(self: Any) -> bool:
        if self.step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self)

    loop.Loop.end_step = end_step
    with Counting() as counting:
        train(
            json.loads(Path(recipe).read_text()),
            output=output,
            resume="resume" in words,
            quiet=True,
            device=next(
                (word.removeprefix("device=") for word in words if word.startswith("device=")), "cpu"
            ),
        )
    counting.write(Path(f"{output}-bytes-{os.environ.get('RANK', 0)}.json"))


if __name__ == "__main__":
    main(*sys.argv[1:])
