"""How long a search may go on: a number of steps, a time, or both ends of a resumed one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ropewalk.errors import UsageError

# At most six rows a step (`Settings.most_pairs`): no more than 200 gradients.
DEFAULT = "32steps"
_FORM = re.compile(r"^(\d+(?:\.\d+)?)\s*(steps?|s|m|min|h)$")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """`steps` or `seconds`; the other is None."""

    steps: int | None = None
    seconds: float | None = None

    def share(self, steps: int, seconds: float) -> float:
        """How much of it is used up, 0 to 1 and beyond."""
        used = 0.0 if self.steps is None else steps / self.steps
        # Whichever end comes first.
        return used if self.seconds is None else max(used, seconds / self.seconds)


def parse_budget(written: str | int | Budget) -> Budget:
    """`200steps`, `10m`, `90s`, `1h`; a bare number is steps.

    >>> parse_budget("10m").seconds
    600.0
    """
    if isinstance(written, Budget):
        return written
    text = str(written).strip().lower()
    match = _FORM.match(f"{text}steps" if text.isdigit() else text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"budget={str(written)[:40]!r} is no budget", hint="write 200steps, 90s, 10m or 1h")
    number, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        if number % 1:
            raise UsageError(f"budget={text!r} ends inside a step", hint="write whole steps, 200steps")
        return Budget(steps=int(number))
    return Budget(seconds=number * _SECONDS[unit])
