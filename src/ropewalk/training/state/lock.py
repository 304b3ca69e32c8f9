"""One process trains in a run folder: a lock that names its owner and is gone with it, however it ended."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ropewalk.errors import RopewalkError, one_line


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which lies beside it; another holder is named in the error.

    The system lets go of the lock with the process, so that a killed run leaves none behind.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    path = folder.parent / f".{folder.name}.lock"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.seek(0)
            owner = one_line(held.read(), 120) or "another process"
            raise RopewalkError(
                f"{folder} is being trained by {owner}",
                hint="wait for it, stop it, or choose another output",
            ) from error
        held.truncate(0)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        held.write(f"process {os.getpid()} on {socket.gethostname()}, since {began}")
        held.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
