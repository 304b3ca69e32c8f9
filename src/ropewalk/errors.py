"""Every failure that a user can cause or meet, as one family.

The message gives the value, the rule and, in `hint`, the way out. The exit code belongs to the class, so that the
command line never has to guess.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


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


def near_miss(
    word: object, known: Iterable[object], *, otherwise: str, count: int = 2, cutoff: float = 0.5
) -> str:
    """The way out of an unknown name, for `hint=`: the nearest known ones, or `otherwise` where none is near.

    Case, dashes and underscores do not count: `YaRN` is near `yarn`, `ntk_su` near `ntk-su`.

    >>> near_miss("yarm", ["yarn", "linear"], otherwise="`ropewalk methods` lists them")
    'did you mean yarn?'
    """
    # Only where something is wrong: this module loads with every command.
    import difflib

    spelled = {_plain_name(name): str(name) for name in known}
    near = difflib.get_close_matches(_plain_name(word), spelled, n=count, cutoff=cutoff)
    return f"did you mean {' or '.join(spelled[name] for name in near)}?" if near else otherwise


def renamed(**now: str) -> Callable[[Function], Function]:
    """Keep the old name of an argument working: `@renamed(out="output")`. Both at once are a UsageError."""

    def accept(function: Function) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **given: Any) -> Any:
            for old, new in now.items():
                if old in given and new in given:
                    raise UsageError(f"{old} and {new} are one argument", hint=f"give {new}")
                if old in given:
                    given[new] = given.pop(old)
            return function(*arguments, **given)

        return cast(Function, call)

    return accept


def _plain_name(name: object) -> str:
    return str(name).casefold().replace("_", "-").replace(" ", "-")


def shown_command(command: str, *arguments: object, **options: object) -> str:
    """A command line of ours as a shell takes it: every word quoted where it must be, ready to be pasted.

    Options are given by name, underscores for dashes, one letter for a short one; None and False leave an option out,
    True gives the bare flag, a list repeats it. An argument that begins with a dash would be read as an option, so
    that it gets the ./ that makes it a path.

    >>> shown_command("extend", "my model", target="32k", p=["beta_fast=4"], force=True, o="OUT")
    "ropewalk extend 'my model' --target 32k -p beta_fast=4 --force -o OUT"
    >>> shown_command("inspect", "-model")
    'ropewalk inspect ./-model'
    """
    # As in `near_miss`: not with every command.
    import shlex

    words = [f"./{word}" if str(word).startswith("-") else str(word) for word in arguments]
    for name, value in options.items():
        flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is None or item is False:
                continue
            words.append(flag)
            if item is not True:
                words.append(str(item))
    return " ".join(["ropewalk", command, *(shlex.quote(word) for word in words)])
