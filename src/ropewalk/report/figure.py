"""A figure as data: panels, axes with labels and units, layers. Two renderers draw it; neither knows what it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ropewalk.errors import RopewalkError
from ropewalk.units import format_length

Dash = Literal["solid", "dash", "dot", "dashdot"]
Series = Sequence[float | None]
NUM_SERIES = 8
_DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


class NoDataError(RopewalkError):
    """A figure whose data is not there; the hint says what to run to get it."""


@dataclass(frozen=True)
class Axis:
    """One axis. `scale="log"` draws base-10 positions; `ticks` are (value, text) where automatic ones would not do."""

    label: str
    unit: str = ""
    scale: Literal["linear", "log"] = "linear"
    ticks: tuple[tuple[float, str], ...] | None = None
    limits: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """Label and unit as printed."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Line:
    """A curve; None in `y` is a gap. `low` and `high` are a confidence band."""

    name: str
    x: Series
    y: Series
    color: str = "series-0"
    dash: Dash = "solid"
    width: float = 2.0
    marker: bool = False
    low: Series | None = None
    high: Series | None = None
    legend: bool = True
    shown: bool = True


@dataclass(frozen=True)
class Points:
    """Single points, each with its own label beside it."""

    name: str
    x: Series
    y: Series
    labels: tuple[str, ...]
    color: str = "series-0"
    legend: bool = False


@dataclass(frozen=True)
class Bars:
    """One series of bars over categories; series of one panel are stacked."""

    name: str
    categories: tuple[str, ...]
    values: Series
    color: str = "series-0"


@dataclass(frozen=True)
class Heat:
    """A grid of values between `low` and `high`; rows from the top. Cells print their value where there is room."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Guide:
    """A labelled straight line across the panel: x or y equals `value`. The label stands at the top or the left, or
    with `far` at the bottom or the right."""

    value: float
    label: str
    axis: Literal["x", "y"] = "x"
    color: str = "muted"
    far: bool = False


@dataclass(frozen=True)
class Span:
    """A labelled, lightly shaded range of x."""

    low: float
    high: float
    label: str
    shaded: bool


@dataclass(frozen=True)
class Text:
    """Small texts at points of the panel."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    texts: tuple[str, ...]


Layer = Line | Points | Bars | Heat | Guide | Span | Text


@dataclass(frozen=True)
class Panel:
    """One coordinate system. A `bare` panel has no axes and equal units in x and y."""

    layers: tuple[Layer, ...]
    x: Axis
    y: Axis
    title: str = ""
    bare: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawable figure. `caption` says how to read it, `alt` what it shows for someone who cannot see it."""

    kind: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 1
    height: int = 420
    alt: str = ""
    sources: tuple[str, ...] = field(default=())

    def with_sources(self, *sources: str) -> Figure:
        """The same figure with the places its numbers come from."""
        return replace(self, sources=tuple(sources))

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return math.ceil(len(self.panels) / self.columns)


def series_color(index: int) -> str:
    """The colour token of the n-th series; they repeat after eight, then with another dash."""
    return f"series-{index % NUM_SERIES}"


def series_dash(index: int) -> Dash:
    """The dash that tells series of the same colour apart."""
    return _DASHES[(index // NUM_SERIES) % len(_DASHES)]


def length_axis(label: str, lengths: Iterable[float]) -> Axis:
    """A logarithmic axis over token counts with ticks at powers of two (512, 4k, 32k)."""
    found = [length for length in lengths if length and length > 0]
    low, high = (min(found), max(found)) if found else (1.0, 2.0)
    # The tolerance keeps a power of two from gaining a tick beyond it by rounding.
    first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
    # Seven ticks at most.
    step = max(1, math.ceil((last - first + 1) / 7))
    # From the longest down: the longest length is the one that is asked about, and always has its tick.
    powers = range(last, first - 1, -step)
    ticks = tuple((float(2**power), format_length(2**power)) for power in sorted(powers) if power >= 0)
    return Axis(label, "tokens", "log", ticks)


def significant(value: float | None, digits: int = 6) -> float | None:
    """A number for drawing: rounded to significant digits, None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{digits}g}")
