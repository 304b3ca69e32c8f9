"""Several training runs, one after the other, on every process of a launch: `two_processes.py RECIPES.json FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch


def main(recipes: str, folder: str) -> None:
    torch.set_num_threads(1)
    from ropewalk.training.run import train

    for name, recipe in json.loads(Path(recipes).read_text()).items():
        train(recipe, output=Path(folder) / name, quiet=True, device="cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
