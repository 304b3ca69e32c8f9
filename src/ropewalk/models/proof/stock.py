"""A fresh interpreter with stock transformers and nothing of ours, for parity checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.proof.probe import Probe

TIMEOUT_S = 3600


@dataclass(frozen=True)
class StockRun:
    """What the fresh process computed: logits per probe, frequency buffers by name, and its own word about itself."""

    logits: list[np.ndarray]
    buffers: dict[str, np.ndarray]
    foreign: tuple[str, ...]
    transformers: str


def stock_run(
    folder: Path,
    probes: Sequence[Probe],
    *,
    device: str,
    dtype: str,
    attn: str | None,
    trust_remote_code: bool,
) -> StockRun:
    """Load `folder` in a process that never imports ropewalk, and run the probes there; without `attn` by the kind of
    attention that the class chooses for itself (sdpa where it has that)."""
    import torch

    with tempfile.TemporaryDirectory(prefix="ropewalk-") as place:
        output = Path(place) / "logits.npz"
        job: dict[str, Any] = {
            "folder": str(folder.resolve()),
            "device": device,
            "dtype": dtype,
            "attn": attn,
            "trust_remote_code": trust_remote_code,
            # A different number of threads may add up in another order, and bits are compared.
            "threads": torch.get_num_threads(),
            "inputs": [probe.to_job() for probe in probes],
            "output": str(output),
        }
        job_file = Path(place) / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        said = _start(job_file)
        with np.load(output) as found:
            logits = [found[f"logits_{index}"] for index in range(len(probes))]
            buffers = {
                name.removeprefix("buffer:"): found[name]
                for name in found.files
                if name.startswith("buffer:")
            }
    return StockRun(logits, buffers, tuple(said["foreign"]), said["transformers"])


def _start(job_file: Path) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with as_file(files("ropewalk.models.proof").joinpath("stock_forward.py")) as script:
        # -I: neither the current folder nor PYTHONPATH can bring anything of ours into that process.
        command = [sys.executable, "-I", str(script), str(job_file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RopewalkError(
                f"stock transformers took more than {TIMEOUT_S} s", hint="try a GPU"
            ) from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RopewalkError(
            f"stock transformers does not run the checkpoint ({one_line(last[0], 240)})",
            hint="`ropewalk inspect` names what is wrong in its config",
        )
    # The last line: libraries may print before it.
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said
