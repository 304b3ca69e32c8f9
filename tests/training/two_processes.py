"""Several training runs, one after the other, on every process of a launch: `two_processes.py RECIPES.json FOLDER`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from counted_bytes import Counting


def main(recipes: str, folder: str) -> None:
    torch.set_num_threads(1)
    from ropewalk.training.run import train

    with Counting() as counting:
        for number, (name, recipe) in enumerate(json.loads(Path(recipes).read_text()).items()):
            if number == 1 and os.environ["RANK"] == "1":
                # Late for a run that is not the first: the folder that the other one makes is no foreign one.
                time.sleep(1)
            train(recipe, output=Path(folder) / name, quiet=True, device="cpu")
            counting.write(Path(folder) / f"{name}-bytes-{os.environ['RANK']}.json")
            if recipe["checkpoints"] == {"every": 1, "keep_last": None}:
                resume(recipe, Path(folder), name)


def resume(recipe: dict[str, Any], folder: Path, name: str) -> None:
    """A run again, as if it had been killed after step 1."""
    from ropewalk.training.run import train

    again = folder / f"{name}-resumed"
    if os.environ["RANK"] == "0":
        copy = shutil.copytree(folder / name, folder / "copied")
        shutil.rmtree(copy / "checkpoints/step-000002")
        for file in ("result.json", "manifest.json"):
            (copy / file).unlink()
        copy.rename(again)
    while not again.exists():
        time.sleep(0.02)
    train(recipe, output=again, resume=True, quiet=True, device="cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
