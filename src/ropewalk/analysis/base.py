"""The smallest base for a length: scanned, from a table, or estimated from it with its tolerance."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np

from ropewalk.analysis.base_table import BASE_BOUNDS
from ropewalk.analysis.decay import kernel_at, rotary_kernel
from ropewalk.errors import UsageError
from ropewalk.geometry import FloatArray

_SCAN_STEP = 0.005
_FIRST_WINDOW = 512
# Distances at once: 2 MiB of kernel.
_SCAN_BLOCK = 1 << 18
_LARGEST_BASE = 1e12
# A scan up to here takes about a tenth of a second, so that it needs no table.
_SCANNED = 1024
_DIMS = sorted({dim for dim, _ in BASE_BOUNDS})
_LENGTHS = sorted({length for _, length in BASE_BOUNDS})
# Leaving rows of the table out and estimating them from the others misses by at most these factors (docs/log.md).
_OTHER_HEAD = 6.0
_BEYOND_TABLE = 10.0
_FITTED = 7


def base_bound(rotary_dim: int, length: int, *, exact: bool = False) -> float:
    """The smallest rope_theta with sum_i cos(m theta_i) >= 0 for every distance m < length (arXiv:2405.14591).

    Infinite where no base up to 1e12 does. `exact` scans bases in steps of half a per cent over every whole distance,
    which takes seconds at a million tokens and grows from there. Without it the answer is immediate: a scanned value
    where the table (`tools/base_table.py`) has one, a line through the table elsewhere; `base_bound_within` says how
    far off that may be. The condition holds in narrow bands before it holds for good, so published values (d = 128:
    2.7e4 at 4k, 6.4e5 at 32k, 7.8e6 at 128k) differ from a scan (2.9e4, 6.3e5, 8.3e6) by how finely they looked.

    >>> base_bound(128, 4096)
    28656.8
    """
    if rotary_dim < 2 or rotary_dim % 2:
        raise UsageError(
            f"rotary_dim={rotary_dim} is not a positive even number", hint="give a head's rotary part"
        )
    if (rotary_dim, length) in BASE_BOUNDS:
        return BASE_BOUNDS[rotary_dim, length]
    if exact or _is_scanned(rotary_dim, length):
        return scan_base_bound(rotary_dim, length)
    # The heads of the table on both sides and how far between them, on a logarithmic scale; the outermost beyond.
    place = min(max(bisect_right(_DIMS, rotary_dim), 1), len(_DIMS) - 1)
    low, high = _DIMS[place - 1], _DIMS[place]
    share = min(max(math.log(rotary_dim / low) / math.log(high / low), 0.0), 1.0)
    estimate = math.exp((1.0 - share) * _log_bound(low, length) + share * _log_bound(high, length))
    return estimate if estimate <= _LARGEST_BASE else math.inf


def base_bound_within(rotary_dim: int, length: int) -> float:
    """The factor by which `base_bound` may miss the scan: 1.005 where it was scanned.

    Between two lengths of the table it is proven, since the bound never falls with the length; for other heads, and
    beyond the longest length, it is what leaving the table's own rows out showed.
    """
    if (rotary_dim, length) in BASE_BOUNDS or _is_scanned(rotary_dim, length):
        return math.exp(_SCAN_STEP)
    if length > _LENGTHS[-1]:
        return _BEYOND_TABLE
    if rotary_dim not in _DIMS:
        return _OTHER_HEAD
    place = bisect_right(_LENGTHS, length)
    before, after = _LENGTHS[place - 1], _LENGTHS[min(place, len(_LENGTHS) - 1)]
    value = base_bound(rotary_dim, length)
    # No finite row above, so that nothing is proven between the two.
    if math.isinf(BASE_BOUNDS[rotary_dim, after]):
        return _OTHER_HEAD
    return max(value / BASE_BOUNDS[rotary_dim, before], BASE_BOUNDS[rotary_dim, after] / value)


def _is_scanned(rotary_dim: int, length: int) -> bool:
    # Heads below the table's fail every base in a short window already, so that their scan ends early at any length.
    return length <= _SCANNED or rotary_dim < _DIMS[0]


def _log_bound(rotary_dim: int, length: int) -> float:
    """ln of the bound of a head of the table: the line between two lengths, the fitted one beyond what is finite."""
    lengths = [n for n in _LENGTHS if math.isfinite(BASE_BOUNDS[rotary_dim, n])]
    log_length, log_bound = np.log(lengths), np.log([BASE_BOUNDS[rotary_dim, n] for n in lengths])
    at = math.log(length)
    if length > lengths[-1]:
        slope, offset = np.polyfit(log_length[-_FITTED:], log_bound[-_FITTED:], 1)
        return float(slope * at + offset)
    return float(np.interp(at, log_length, log_bound))


def scan_base_bound(rotary_dim: int, length: int, *, least: float = 2.0) -> float:
    """The bound by looking at every whole distance: under a second at 128k, half a minute at 4m.

    A base that fails a short window fails every longer one, so the scan goes up through growing windows and never
    comes back to a smaller base. `least` is a base that is known to be needed, a shorter window's bound.
    """
    exponents = np.arange(0, rotary_dim, 2) / rotary_dim
    last = int((math.log(_LARGEST_BASE) - math.log(2.0)) / _SCAN_STEP)
    windows = [length]
    while windows[-1] > _FIRST_WINDOW:
        windows.append(-(-windows[-1] // 4))
    # `least` lies on the grid itself; its logarithm may come out a hair below its step.
    step = max(0, math.floor(math.log(least / 2.0) / _SCAN_STEP + 1e-3))
    worst: int | None = None
    for window in reversed(windows):
        while True:
            if step >= last:
                return math.inf
            worst = _negative_distance(_scanned(step) ** -exponents, window, worst)
            if worst is None:
                break
            step += 1
    return _scanned(step)


def _scanned(step: int) -> float:
    return 2.0 * math.exp(step * _SCAN_STEP)


def _negative_distance(inv_freq: FloatArray, length: int, hint: int | None) -> int | None:
    """A distance below `length` at which the kernel is negative, or None. The last base's distance is tried first:
    the next base mostly fails right beside it."""
    if hint is not None:
        # A step of half a per cent in the base moves a distance by no more than that.
        reach = max(64, hint // 200)
        near = np.unique(
            np.clip(np.linspace(hint - reach, hint + reach, 129).astype(np.int64), 0, length - 1)
        )
        kernel = kernel_at(inv_freq, near)
        if kernel.min() < 0.0:
            return int(near[np.argmin(kernel)])
    for start in range(0, length, _SCAN_BLOCK):
        kernel = rotary_kernel(inv_freq, min(_SCAN_BLOCK, length - start), start=start)
        if kernel.min() < 0.0:
            return start + int(np.argmin(kernel))
    return None
