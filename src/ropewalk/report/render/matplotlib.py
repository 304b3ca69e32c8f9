"""A `Figure` as a PNG, SVG or PDF file, byte for byte the same each time: fixed ids, no dates, no version stamps."""

from __future__ import annotations

import io
import math
import unicodedata
import warnings
from collections.abc import Mapping
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.report.figure import Axis, Bars, Figure, Guide, Heat, Line, Panel, Points, Series, Span, Text
from ropewalk.report.palette import HEAT, theme

FORMATS = ("svg", "png", "pdf")
_PIXELS_PER_INCH = 100
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
# The only metadata fields that carry a date or a version, emptied.
_METADATA = {
    "svg": {"Date": None, "Creator": "ropewalk"},
    "png": {"Software": "ropewalk"},
    "pdf": {"CreationDate": None, "Creator": "ropewalk", "Producer": "ropewalk"},
}


def draw(figure: Figure, file_format: str, *, dark: bool = False, dpi: int = 200) -> bytes:
    """The file's content. Needs matplotlib (`pip install 'ropewalk[plot]'`)."""
    if file_format not in FORMATS:
        raise UsageError(f"no figure format {file_format!r}", hint=f"use one of {', '.join(FORMATS)}")
    matplotlib = _matplotlib()
    colors = theme(dark=dark)
    with matplotlib.rc_context(_settings(colors)), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; that is no news to print for each letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = _canvas(figure, colors)
        stream = io.BytesIO()
        canvas.savefig(stream, format=file_format, dpi=dpi, metadata=_METADATA[file_format])
    return stream.getvalue()


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise RopewalkError(
            "drawing to a file needs matplotlib",
            hint="pip install 'ropewalk[plot]', or use `ropewalk report`",
        ) from error
    return matplotlib


def _settings(colors: Mapping[str, str]) -> dict[str, Any]:
    return {
        # Ids of clipping paths are hashed with it, and otherwise with a random number: other bytes each time.
        "svg.hashsalt": "ropewalk",
        # Outlines, which look alike where the font is missing.
        "svg.fonttype": "path",
        # TrueType: journals refuse the Type 3 fonts that matplotlib embeds by default.
        "pdf.fonttype": 42,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 10,
        "text.color": colors["ink"],
        "axes.labelcolor": colors["ink"],
        "axes.edgecolor": colors["faint"],
        "axes.facecolor": colors["paper"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": colors["paper"],
        "savefig.facecolor": colors["paper"],
        "xtick.color": colors["muted"],
        "ytick.color": colors["muted"],
        "grid.color": colors["grid"],
        "grid.linewidth": 0.7,
        "legend.frameon": False,
    }


def _canvas(figure: Figure, colors: Mapping[str, str]) -> Any:
    matplotlib = _matplotlib()
    width = 7.2 if figure.columns == 1 else 4.2 * figure.columns
    canvas = matplotlib.figure.Figure(
        figsize=(width, max(figure.height / _PIXELS_PER_INCH, 3.0) + 0.4), layout="constrained"
    )
    canvas.suptitle(_plain(figure.title), fontsize=11, x=0.01, ha="left")
    axes = canvas.subplots(figure.rows, figure.columns, squeeze=False).ravel()
    # The last row may have more places than panels.
    for place, panel in zip(axes, figure.panels, strict=False):
        _draw_panel(canvas, place, panel, colors)
    for place in axes[len(figure.panels) :]:
        place.set_axis_off()
    _legend(canvas, axes, width)
    return canvas


def _legend(canvas: Any, axes: Any, width: float) -> None:
    handles: dict[str, Any] = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        longest = max(len(label) for label in handles)
        # Some thirteen letters of this size an inch, and six for the stroke beside each name.
        columns = max(1, min(len(handles), int(width * 13 / (longest + 6))))
        canvas.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=columns, fontsize=8.5)


def _draw_panel(canvas: Any, place: Any, panel: Panel, colors: Mapping[str, str]) -> None:
    if panel.title:
        place.set_title(_plain(panel.title), loc="left", color=colors["muted"], fontsize=9)
    if panel.bare:
        place.set_aspect("equal")
        place.set_axis_off()
    else:
        _axis(place, "x", panel.x)
        _axis(place, "y", panel.y)
        place.grid(True)
        place.set_axisbelow(True)
    stack: dict[int, float] = {}
    for layer in panel.layers:
        _draw_layer(canvas, place, layer, colors, stack)
    # Lines between categories would look like values.
    if any(isinstance(layer, Bars) for layer in panel.layers):
        place.grid(False, axis="x")
    # Text and guides may not have widened the view of a logarithmic axis past its data.
    if panel.x.limits is not None:
        place.set_xlim(*panel.x.limits)
    if panel.y.limits is not None:
        place.set_ylim(*panel.y.limits)


def _axis(place: Any, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    getattr(place, f"set_{which}label")(_plain(axis.title))
    if axis.scale == "log":
        getattr(place, f"set_{which}scale")("log")
    if axis.ticks is not None:
        side = getattr(place, f"{which}axis")
        side.set_major_locator(FixedLocator([value for value, _ in axis.ticks]))
        side.set_minor_locator(NullLocator())
        side.set_minor_formatter(NullFormatter())
        getattr(place, f"set_{which}ticklabels")([_plain(text) for _, text in axis.ticks])


def _draw_layer(
    canvas: Any, place: Any, layer: Any, colors: Mapping[str, str], stack: dict[int, float]
) -> None:
    if isinstance(layer, Line):
        _draw_line(place, layer, colors)
    elif isinstance(layer, Points):
        label = _plain(layer.name) if layer.legend else "_hidden"
        place.plot(
            _numbers(layer.x), _numbers(layer.y), "o", color=colors[layer.color], markersize=6, label=label
        )
        for x, y, label in zip(layer.x, layer.y, layer.labels, strict=True):
            if x is not None and y is not None:
                place.annotate(_plain(label), (x, y), (4, 4), textcoords="offset points", fontsize=8)
    elif isinstance(layer, Bars):
        _draw_bars(place, layer, colors, stack)
    elif isinstance(layer, Heat):
        _draw_heat(canvas, place, layer)
    elif isinstance(layer, Guide):
        _draw_guide(place, layer, colors)
    elif isinstance(layer, Span):
        _draw_span(place, layer, colors)
    elif isinstance(layer, Text):
        for x, y, text in zip(layer.x, layer.y, layer.texts, strict=True):
            place.text(x, y, _plain(text), ha="center", va="center", fontsize=6.5, color=colors["muted"])


def _draw_line(place: Any, layer: Line, colors: Mapping[str, str]) -> None:
    color = colors[layer.color]
    place.plot(
        _numbers(layer.x),
        _numbers(layer.y),
        _DASHES[layer.dash],
        color=color,
        # A figure counts pixels of the page, 96 an inch; matplotlib counts points, 72 an inch.
        linewidth=layer.width * 0.75,
        marker="o" if layer.marker else None,
        markersize=3.5,
        label=_plain(layer.name) if layer.legend else "_hidden",
    )
    if layer.low is not None and layer.high is not None:
        low, high = _numbers(layer.low), _numbers(layer.high)
        place.fill_between(_numbers(layer.x), low, high, color=color, alpha=0.18, linewidth=0)


def _draw_bars(place: Any, layer: Bars, colors: Mapping[str, str], stack: dict[int, float]) -> None:
    values = [value if value is not None else 0.0 for value in layer.values]
    bottoms = [stack.get(number, 0.0) for number in range(len(values))]
    places = range(len(values))
    place.bar(places, values, bottom=bottoms, color=colors[layer.color], label=_plain(layer.name), width=0.7)
    place.set_xticks(list(places), [_plain(name) for name in layer.categories])
    for number, value in enumerate(values):
        stack[number] = bottoms[number] + value


def _draw_heat(canvas: Any, place: Any, layer: Heat) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    cells = [[math.nan if value is None else value for value in row] for row in layer.values]
    colormap = LinearSegmentedColormap.from_list("ropewalk", list(HEAT))
    image = place.imshow(cells, cmap=colormap, vmin=layer.low, vmax=layer.high, aspect="auto")
    place.grid(False)
    place.set_xticks(range(len(layer.columns)), [_plain(name) for name in layer.columns])
    place.set_yticks(range(len(layer.rows)), [_plain(name) for name in layer.rows])
    if len(layer.columns) > 12 or len(layer.rows) > 16:
        canvas.colorbar(image, ax=place, label=_plain(layer.label))
        return
    # Where the colour map turns from dark to light; white reads better up to there.
    middle = layer.low + 0.6 * (layer.high - layer.low)
    for row, values in enumerate(layer.values):
        for column, value in enumerate(values):
            if value is not None:
                ink = "#ffffff" if value < middle else "#000000"
                place.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)


def _draw_guide(place: Any, layer: Guide, colors: Mapping[str, str]) -> None:
    color = colors[layer.color]
    line = place.axvline if layer.axis == "x" else place.axhline
    # Below the curves: a guide says where to look and must hide nothing.
    line(layer.value, color=color, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
    style: dict[str, Any] = {"fontsize": 7.5, "color": color}
    if layer.axis == "x":
        side = "bottom" if layer.far else "top"
        anchor = {"ha": "right", "va": side, "rotation": 90, "transform": place.get_xaxis_transform()}
        place.text(layer.value, 0.01 if layer.far else 0.99, _plain(layer.label), **anchor, **style)
    else:
        side = "right" if layer.far else "left"
        anchor = {"ha": side, "va": "bottom", "transform": place.get_yaxis_transform()}
        place.text(0.99 if layer.far else 0.01, layer.value, _plain(layer.label), **anchor, **style)


def _draw_span(place: Any, layer: Span, colors: Mapping[str, str]) -> None:
    if layer.shaded:
        place.axvspan(layer.low, layer.high, color=colors["series-5"], alpha=0.12, linewidth=0)
    middle = (layer.low + layer.high) / 2
    anchor = {"ha": "center", "va": "top", "transform": place.get_xaxis_transform()}
    place.text(middle, 0.99, _plain(layer.label), fontsize=7.5, color=colors["muted"], **anchor)


def _numbers(values: Series) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _plain(text: str) -> str:
    """matplotlib reads $...$ as mathematics; escaped, a text shows as written. What XML cannot hold is replaced."""
    shown = "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    return shown.replace("$", r"\$")
