"""A process that dies at its n-th change of the disk, without leaving the test's process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate")


class Killed(BaseException):
    """What the dead process would have done next. A BaseException, so that nothing handles it."""


class Killer:
    """Counts changes of the disk under one folder; from the n-th on, every one of them raises."""

    def __init__(self) -> None:
        self.root = ""
        self.at: int | None = None
        self.count = 0
        self.events: list[str] = []
        self._installed = False

    def change(self, what: str, path: Any) -> None:
        """Called before a change of the disk."""
        if not self.root or not str(path).startswith(self.root):
            return
        self.count += 1
        self.events.append(f"{what} {os.path.basename(str(path))}")
        if self.at is not None and self.count >= self.at:
            raise Killed(self.events[-1])

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR
            )
            if writes:
                self.change("open", path)
        elif event in CHANGES:
            path, folder = arguments[0], arguments[-1]
            if event in ("os.remove", "os.rmdir") and isinstance(folder, int) and folder >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
            self.change(event, path)

    @contextmanager
    def watching(self, root: Any, *, at: int | None = None) -> Iterator[Killer]:
        """Watch changes under `root`; die at number `at`, or only count."""
        if not self._installed:
            sys.addaudithook(self._audit)
            self._installed = True
        self.root, self.at, self.count, self.events = str(root), at, 0, []
        real_fsync = os.fsync

        def fsync(descriptor: int) -> None:
            self.change("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            real_fsync(descriptor)

        os.fsync = fsync
        try:
            yield self
        finally:
            os.fsync = real_fsync
            self.root = ""


KILLER = Killer()
