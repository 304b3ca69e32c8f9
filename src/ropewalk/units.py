"""Lengths, sizes, factors and lists of names as people write them: 32k, 4k..32k, 24GB, 8x, needle,kv."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ropewalk.errors import UsageError

# ASCII: otherwise \d takes the digits of every script, which int() reads and few people can.
_LENGTH = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmM]?)\s*$", re.ASCII)
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*$", re.ASCII)
_LENGTH_UNIT = {"": 1, "k": 1024, "m": 1024**2}
_SIZE_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
# Far below 2**53: a length stays exact on its way through a float.
MAX_LENGTH = 1 << 40
_LARGEST_SIZE = 1 << 60
_SMALLEST_PLAIN = 1_000_000


def parse_length(text: str | int) -> int:
    """Tokens from `4096`, `4k` (4096), `128k` or `1m` (1048576).

    >>> parse_length("32k")
    32768
    """
    match = _LENGTH.match(str(text))
    if match is None:
        raise UsageError(
            f"length {str(text)[:60]!r} is not a number of tokens", hint="write 4096, 4k, 128k or 1m"
        )
    value = float(match.group(1)) * _LENGTH_UNIT[match.group(2).lower()]
    # The range first: a number whose digits make an infinite float has no int.
    if not 1 <= value <= MAX_LENGTH or value != int(value):
        raise UsageError(
            f"length {str(text)[:60]!r} is not a whole number of tokens between 1 and 2**40",
            hint="write 4096, 4k, 128k or 1m",
        )
    return int(value)


def parse_lengths(text: str) -> list[int]:
    """A list of lengths: `4k,8k,12k`, or `4k..32k`, which doubles and always ends with the upper bound.

    >>> parse_lengths("4k..32k")
    [4096, 8192, 16384, 32768]
    """
    lengths: list[int] = []
    for part in text.split(","):
        if ".." not in part:
            lengths.append(parse_length(part))
            continue
        low_text, _, high_text = part.partition("..")
        low, high = parse_length(low_text), parse_length(high_text)
        if low > high:
            raise UsageError(
                f"range {part.strip()!r} runs downwards", hint="write the shorter length first, 4k..32k"
            )
        lengths += doublings(low, high)
    return sorted(set(lengths))


def doublings(low: int, high: int) -> list[int]:
    """`low`, twice that, and so on below `high`, which always ends the list.

    >>> doublings(512, 3000), doublings(4096, 4096)
    ([512, 1024, 2048, 3000], [4096])
    """
    lengths = []
    while low < high:
        lengths.append(low)
        low *= 2
    return [*lengths, high]


def parse_target(text: str | int, original_length: int) -> int:
    """A target length in tokens, given as a length (`32k`) or as a multiple of the original window (`8x`).

    >>> parse_target("8x", 512)
    4096
    """
    written = str(text).strip()
    if written[-1:] in ("x", "X"):
        try:
            multiple = float(written[:-1])
        except ValueError:
            multiple = math.nan
        # Turned round, so that NaN is refused as well.
        if not multiple > 0:
            raise UsageError(
                f"target {written[:60]!r} is not a multiple", hint="write 8x, or a length such as 32k"
            )
        # Before it is multiplied: an infinite product cannot be rounded.
        if multiple > MAX_LENGTH / original_length:
            raise UsageError(
                f"target {written[:60]!r} of original_length={original_length} is beyond 2**40 tokens",
                hint="choose a shorter target",
            )
        target = round(multiple * original_length)
    else:
        target = parse_length(written)
    if target < original_length:
        raise UsageError(
            f"target_length={target} is below original_length={original_length}, the window the model already has",
            hint="choose a longer target",
        )
    return target


def parse_factors(text: str) -> list[float]:
    """A list of factors, in order.

    >>> parse_factors("2,4x,8")
    [2.0, 4.0, 8.0]
    """
    try:
        factors = [float(name.removesuffix("x")) for name in split_names(text)]
    except ValueError:
        factors = []
    if not factors or not all(map(math.isfinite, factors)):
        raise UsageError(f"{text[:60]!r} is not a list of factors", hint="write 2,4,8")
    return factors


def split_names(given: str | Iterable[object]) -> list[str]:
    """Names with commas between, or a sequence of them, each once.

    >>> split_names(" needle, kv,,needle")
    ['needle', 'kv']
    """
    names = given.split(",") if isinstance(given, str) else map(str, given)
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def parse_bytes(text: str | int) -> int:
    """Bytes from `24GB`, `512MiB` or a plain number. Units are binary, as device memory is sold and reported.

    A plain number below a million is refused: whoever writes `24` means gigabytes, not bytes.

    >>> parse_bytes("24GB") == 24 * 1024**3
    True
    """
    match = _SIZE.match(str(text))
    if match is None:
        raise UsageError(
            f"size {str(text)[:60]!r} is not a number of bytes", hint="write 24GB, 512MB or 1000000"
        )
    size = float(match.group(1)) * 1024 ** _SIZE_POWER[match.group(2).lower()]
    # Also a number whose digits make an infinite float, which has no int.
    if not size <= _LARGEST_SIZE:
        raise UsageError(
            f"size {str(text)[:60]!r} is beyond any machine", hint="write 24GB, 512MB or 1000000"
        )
    if size < _SMALLEST_PLAIN and str(text).strip().isdigit():
        raise UsageError(
            f"size {str(text)[:60]!r} without a unit is that many bytes", hint=f"write {match.group(1)}GB"
        )
    return int(size)


def format_length(tokens: int) -> str:
    """The shortest exact spelling of a length: 32768 is 32k, 1048576 is 1m, 1000 stays 1000."""
    for unit, size in (("m", 1024**2), ("k", 1024)):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)


def format_bytes(size: float) -> str:
    """Bytes for reading: 1.5 GiB.

    >>> format_bytes(1024**2 - 1)
    '1.0 MiB'
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        shown = round(value, 0 if unit == "B" else 1)
        # What rounds to 1024 is written as one of the next unit.
        if abs(shown) < 1024:
            return f"{shown:.0f} {unit}" if unit == "B" else f"{shown:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Seconds for reading: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
