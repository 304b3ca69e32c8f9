"""Two processes that meet, as `accelerate launch` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def in_two(words: Sequence[str]) -> list[str]:
    """What each of two processes of one command wrote; both must end well."""
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            words,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [text for text, _ in said]
