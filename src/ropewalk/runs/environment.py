"""What a run was made with: command line, versions, hardware. Nothing here imports a heavy package."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "ropewalk",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "datasets",
    "safetensors",
    "numpy",
)
_SECRET_WORDS = ("key", "token", "secret", "password")
# Flags whose names hold one of the words above and whose values are no secrets.
_NOT_SECRET = ("--max-tokens", "--tokens", "--tokenizer", "--new-tokens")


def command_line() -> str | None:
    """The `ropewalk ...` line that this process runs, secrets masked; None where Python made the call."""
    # A notebook or a script has a command line too, and it is not one of ours.
    if not sys.argv or Path(sys.argv[0]).name not in ("ropewalk", "__main__.py", "ropewalk.exe"):
        return None
    return shlex.join(["ropewalk", *mask_secrets(sys.argv[1:])])


def mask_secrets(words: list[str]) -> list[str]:
    """The words of a command line with the values of flags such as --api-key replaced by `***`."""
    masked: list[str] = []
    hide_next = False
    for word in words:
        flag, equals, _ = word.partition("=")
        secret = (
            flag.startswith("--") and flag not in _NOT_SECRET and any(part in flag for part in _SECRET_WORDS)
        )
        if hide_next and not word.startswith("--"):
            masked.append("***")
        else:
            masked.append(f"{flag}=***" if secret and equals else word)
        hide_next = secret and not equals
    return masked


def versions() -> dict[str, str]:
    """Python and every package that can change a number, as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Machine, processor count, memory in bytes, and accelerators where torch is loaded already."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        # What this process may use, which a scheduler or `taskset` may have made less than there is.
        "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "accelerators": _accelerators(),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _accelerators() -> list[str]:
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_available():
        return []
    return [cuda.get_device_name(number) for number in range(cuda.device_count())]
