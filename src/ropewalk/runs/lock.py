"""One process writes in a run folder: a lock that names its owner and is gone with it, however it ended."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

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
    path = _lock_of(folder)
    with contextlib.ExitStack() as stack:
        while True:
            held = stack.enter_context(_opened(path, folder))
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                held.seek(0)
                owner = one_line(held.read(), 120) or "another process"
                raise RopewalkError(
                    f"{folder} is being written by {owner}",
                    hint="wait for it, stop it, or choose another output",
                ) from error
            # Who held it before may have removed the file between our opening and our locking.
            if path.exists() and os.path.samestat(os.fstat(held.fileno()), path.stat()):
                break
        held.truncate(0)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        held.write(f"process {os.getpid()} on {socket.gethostname()}, since {began}")
        held.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Whether a living process writes in a run folder; False where the system has no locks."""
    try:
        import fcntl

        with open(_lock_of(folder), "rb") as stream:
            try:
                # Shared and given back at once, so that several lookers never take each other for a writer.
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except (ImportError, OSError):
        pass
    return False


def _lock_of(folder: Path) -> Path:
    """One folder has one lock under whatever name: `-o .` and a link to it lock what they stand for."""
    place = folder.resolve()
    return place.parent / f".{place.name}.lock"


def _opened(path: Path, folder: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened without emptying it: until the lock is ours the words inside are its owner's.
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise RopewalkError(
            f"cannot make the run folder {folder} ({one_line(error.strerror or error)})",
            hint="name another with -o, or set ROPEWALK_RUNS",
        ) from error
