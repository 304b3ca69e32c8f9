"""SIGKILL training runs at random moments until enough are dead: `random_kills.py RECIPE.json FOLDER KILLS SEED`.

Libraries are imported once; every run is a fork of this process, killed from here and resumed by the next fork. Runs
that get through are followed by new ones. Prints {"kills", "runs", "starts", "seconds"} as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from ropewalk.training.run import train


def child(recipe: dict[str, object], output: Path, errors: Path) -> None:
    """One attempt in a fork; an error of its own ends up in a file and in the exit status."""
    status = 0
    try:
        train(recipe, output=output, resume=output.exists(), quiet=True, device="cpu")
    except BaseException:
        errors.write_text(traceback.format_exc())
        status = 9
    os._exit(status)


def main(recipe_path: str, folder: str, kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    recipe = json.loads(Path(recipe_path).read_text())
    rng = random.Random(int(seed))
    root = Path(folder)
    train(recipe, output=root / "whole", quiet=True, device="cpu")
    began = time.monotonic()
    train(recipe, output=root / "timed", quiet=True, device="cpu")
    seconds = time.monotonic() - began
    dead, runs, starts = 0, 0, 0
    while dead < int(kills):
        output = root / f"run-{runs}"
        starts += 1
        process = os.fork()
        if process == 0:
            child(recipe, output, root / "errors.txt")
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                raise SystemExit((root / "errors.txt").read_text())
            runs += 1
        else:
            dead += 1
    output = root / f"run-{runs}"
    train(recipe, output=output, resume=output.exists(), quiet=True, device="cpu")
    print(json.dumps({"kills": dead, "runs": runs + 1, "starts": starts + 1, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
