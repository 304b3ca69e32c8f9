"""One line about a running training: loss, stage, speed, memory, time left. On stderr, and quiet where asked."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from ropewalk.units import format_bytes, format_duration, format_length


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far; on a GPU, the most memory that tensors held."""
    # Looked up, not imported: a line of progress is no reason to load torch.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes here, Linux KiB.
    return size if sys.platform == "darwin" else size * 1024


@dataclass
class Progress:
    """Prints the line: in place on a terminal, once every `interval_s` seconds elsewhere."""

    quiet: bool = False
    interval_s: float = 30.0
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    mfu: float | None = None
    _started: float = field(default_factory=time.monotonic)
    _last: float = -1e9
    _open: bool = False
    _first_step: int | None = None

    def step(
        self,
        step: int,
        steps: int,
        *,
        loss: float,
        stage: str,
        length: int,
        tokens_per_s: float,
        final: bool = False,
    ) -> None:
        """Say where the run stands after `step` of about `steps` steps."""
        if self.quiet:
            return
        now = time.monotonic()
        if self._first_step is None:
            # After a resume the time left follows from the steps of this process, not from those before it.
            self._first_step, self._started = step, now
        terminal = self.stream.isatty()
        if now - self._last < (0.2 if terminal else self.interval_s) and not final:
            return
        self._last = now
        done = step - self._first_step
        left = format_duration((now - self._started) / done * max(0, steps - step)) if done else "-"
        used = "" if self.mfu is None else f"MFU {self.mfu:.0%}  "
        line = (
            f"step {step}/{steps}  loss {loss:.4f}  stage {stage} ({format_length(length)})  "
            f"{tokens_per_s:,.0f} tokens/s  {used}{format_bytes(peak_memory_bytes())}  left {left}"
        )
        self.stream.write(f"\r\x1b[2K{line}" if terminal else f"{line}\n")
        self.stream.flush()
        self._open = terminal

    def say(self, text: str) -> None:
        """A remark on a line of its own."""
        if self.quiet:
            return
        self.close()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def warn(self, text: str) -> None:
        """A remark that is never suppressed."""
        self.close()
        self.stream.write(f"ropewalk: {text}\n")
        self.stream.flush()

    def silence(self) -> None:
        """Say nothing from here on, warnings included: another process speaks for this one."""
        self.quiet = True
        self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process

    def close(self) -> None:
        """End the line that is being rewritten."""
        if self._open:
            self.stream.write("\n")
            self._open = False
