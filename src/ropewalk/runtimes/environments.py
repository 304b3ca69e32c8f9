"""Where the programs are: each in a Python environment of its own, since their pins conflict."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ropewalk.runtimes.registry import find_runtime

# Programs with a runner, each with the module that shows it is installed.
RUNNABLE = {"llama.cpp": "xllamacpp", "mlx": "mlx_lm", "vllm": "vllm"}
ENVIRONMENTS = "ROPEWALK_RUNTIMES"


def interpreter(name: str) -> str | None:
    """The Python of a program's own environment, this one where the program is installed beside us, or None.

    Environments lie under `.runtimes` here, or where ROPEWALK_RUNTIMES points: NAME/bin/python.
    """
    own = environment_of(name)
    if own is not None:
        # Not resolved: the link leads to the base interpreter, which knows none of the environment's packages.
        return str((own / "bin" / "python").absolute())
    return sys.executable if find_spec(RUNNABLE[name]) is not None else None


def environment_of(name: str) -> Path | None:
    """The folder of a program's own environment, where there is one."""
    own = Path(os.environ.get(ENVIRONMENTS) or ".runtimes") / name
    return own if (own / "bin" / "python").is_file() else None


def how_to_get(name: str) -> str:
    """How a program that is not here comes here."""
    return (
        f"{find_runtime(name).title} is not installed: `make runtimes` builds .runtimes/{name}, or point "
        f"{ENVIRONMENTS} at a folder with {name}/bin/python"
    )
