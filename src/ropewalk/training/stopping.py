"""Ctrl-C and SIGTERM end a run at the end of its step, with a checkpoint; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """The run in `folder` was asked to stop, and has saved; `code` is what a shell expects, 130 or 143."""

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code, self.folder = 128 + number, folder


class Stopping:
    """The wish to stop; `number` is the signal that brought it, 0 where there was none."""

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the first SIGINT or SIGTERM is remembered. Only the main thread can listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM)
        before: dict[int, Any] = {number: signal.getsignal(number) for number in wanted}

        def note(number: int, frame: FrameType | None) -> None:
            self.number = number
            for name in wanted:
                # Whoever asks twice does not want to wait for the step.
                # (None stands for a handler that was not set from Python, and cannot be put back.)
                signal.signal(name, before[name] or signal.SIG_DFL)

        for number in wanted:
            signal.signal(number, note)
        try:
            yield
        finally:
            for name in wanted:
                signal.signal(name, before[name] or signal.SIG_DFL)
