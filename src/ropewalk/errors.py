"""Every failure that a user can cause or meet, as one family.

The message gives the value, the rule and, in `hint`, the way out. The exit code belongs to the class, so that the
command line never has to guess.
"""

from __future__ import annotations


class RopewalkError(Exception):
    """A handled failure: exit code 1."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}: {self.hint}"

    def to_json(self) -> dict[str, object]:
        """The `error` value of every `--json` failure document."""
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}


class UsageError(RopewalkError):
    """A value or a combination of values that can never work: exit code 2."""

    exit_code = 2


class DamagedError(RopewalkError):
    """An artefact of ours (checkpoint, run folder, schedule file) that is not what was written: exit code 3."""

    exit_code = 3


class GateMissedError(RopewalkError):
    """A stated quality gate was missed, for example a failed check of `verify`: exit code 4."""

    exit_code = 4


def one_line(text: object, limit: int = 300) -> str:
    """Foreign text (an exception's message, a file's content) made safe to show inside one line."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
