"""Progress in tokens, for whoever listens."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int, str], None]


class Watcher:
    """Counts tokens of known work: `plan` announces a part, `step` reports what it has read."""

    def __init__(self, listener: OnStep | None = None) -> None:
        self._listener = listener
        self._total = 0
        self._done = 0
        self._what = ""

    def plan(self, tokens: int) -> None:
        """Add a part to the whole."""
        self._total += tokens

    def begin(self, what: str) -> None:
        """Name the part that is being done."""
        self._what = what
        self._tell()

    def step(self, tokens: int) -> None:
        """So many tokens more."""
        self._done += tokens
        self._tell()

    def part(self, what: str) -> Callable[[int, int], None]:
        """A listener for work that tells (done, total) itself and learns its total as it goes."""
        told = [0, 0]
        self.begin(what)

        def on_tokens(done: int, total: int) -> None:
            self.plan(total - told[1])
            self.step(done - told[0])
            told[:] = [done, total]

        return on_tokens

    def _tell(self) -> None:
        if self._listener is not None:
            # Work that was announced roughly may come to more, and no bar runs past its end.
            self._listener(min(self._done, self._total), self._total, self._what)
