"""Reading single values out of a foreign configuration: wrong types become one clear error, never a traceback."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TypeGuard

from ropewalk.errors import RopewalkError

MAX_WHOLE = 1 << 48
_ANY_FILE = "config.json"


def shown(value: object, limit: int = 60) -> str:
    """A foreign value for one line of a terminal: quoted, shortened, without control characters.

    >>> shown("a\\x1b[2Jb")
    "'a\\\\x1b[2Jb'"
    """
    # Python refuses to print integers of thousands of digits, and JSON may hold them.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**18:
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    if isinstance(value, Mapping) and set(value) == {"__float__"}:
        # The strict spelling of NaN and infinities, which the file may hold bare.
        return plain(str(value["__float__"]), limit)
    if isinstance(value, Mapping | list) and len(value) > 12:
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)} entries"
    # repr() escapes whatever is not printable, bidirectional marks and lone surrogates among it.
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(text: str, limit: int = 80) -> str:
    """A foreign name without quotes, for tables: what is printable stays, the rest is escaped."""
    return shown(text, limit + 2).strip("'\"") if text else ""


def exact(value: float) -> str:
    """A number as a person is told to write it: short where that is the same number, in full otherwise.

    >>> exact(1048576), exact(1e7), exact(1234567.5)
    ('1048576', '1e+07', '1234567.5')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def is_number(value: object) -> TypeGuard[float]:
    """A finite number that fits a float; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_whole(value: object) -> TypeGuard[float]:
    """A whole number of a size that a model can have; 4096.0 counts."""
    return is_number(value) and float(value) == int(value) and abs(value) < MAX_WHOLE


def whole(name: str, value: object, *, least: int = 1) -> int:
    """A whole number of at least `least`, or an error that names the field."""
    if not is_whole(value) or int(value) < least:
        raise RopewalkError(
            f"config.json: {name}={shown(value)} is not a whole number of {least} or more",
            hint=f"correct {name} in config.json",
        )
    return int(value)


def number(name: str, value: object) -> float:
    """A finite number, or an error that names the field."""
    if not is_number(value):
        raise RopewalkError(
            f"config.json: {name}={shown(value)} is not a finite number",
            hint=f"correct {name} in config.json",
        )
    return float(value)


def optional_whole(value: object) -> int | None:
    """A positive whole number, or None where there is none to speak of."""
    return int(value) if is_whole(value) and int(value) >= 1 else None


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors about a configuration's values name the file they were read from, in the place of `config.json`."""
    try:
        yield
    except RopewalkError as error:
        if error.message.startswith(_ANY_FILE):
            error.message = plain(path, 200) + error.message.removeprefix(_ANY_FILE)
        raise
