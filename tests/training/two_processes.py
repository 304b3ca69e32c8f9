"""Several training runs, one after the other, on every process of a launch: `two_processes.py RECIPES.json FOLDER`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch


def main(recipes: str, folder: str) -> None:
    torch.set_num_threads(1)
    from ropewalk.training.run import train

    for name, recipe in json.loads(Path(recipes).read_text()).items():
        train(recipe, output=Path(folder) / name, quiet=True, device="cpu")
    # The last one again, as if it had been killed after step 1.
    again = Path(folder) / "resumed"
    if os.environ["RANK"] == "0":
        copy = shutil.copytree(Path(folder) / name, Path(folder) / "copied")
        shutil.rmtree(copy / "checkpoints/step-000002")
        for file in ("result.json", "manifest.json"):
            (copy / file).unlink()
        copy.rename(again)
    while not again.exists():
        time.sleep(0.02)
    train(recipe, output=again, resume=True, quiet=True, device="cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
