"""A `Figure` as plotly.js specifications, one a panel, so that a page can flow panels with its width.

Colours are tokens (`@series-0`, `@ink/0.2`) under keys that end in `color`; the page puts the theme's values
in, so that one specification serves light and dark. Nothing here imports plotly: a specification is plain data.
"""

from __future__ import annotations

import html
import math
from typing import Any

from ropewalk.report.figure import Axis, Bars, Figure, Guide, Heat, Line, Panel, Points, Span, Text
from ropewalk.report.palette import HEAT

Spec = dict[str, Any]
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def panels(figure: Figure) -> list[Spec]:
    """One {title, data, layout, height} a panel."""
    rows = max(figure.rows, 1)
    height = figure.height if rows == 1 else round(figure.height / rows)
    return [_panel(panel, height, alone=len(figure.panels) == 1) for panel in figure.panels]


def legend(figure: Figure) -> list[tuple[str, str]]:
    """(name, colour token) of the legend that several panels share; empty where the one panel draws its own."""
    if len(figure.panels) == 1:
        return []
    entries = {
        layer.name: layer.color
        for panel in figure.panels
        for layer in panel.layers
        if isinstance(layer, Line) and layer.legend
    }
    return list(entries.items())


def _panel(panel: Panel, height: int, *, alone: bool) -> Spec:
    data: list[Spec] = []
    shapes: list[Spec] = []
    notes: list[Spec] = []
    for layer in panel.layers:
        if isinstance(layer, Line):
            data += _line(layer, panel, alone)
        elif isinstance(layer, Points):
            data.append(_points(layer, panel))
        elif isinstance(layer, Bars):
            data.append(_bars(layer, panel))
        elif isinstance(layer, Heat):
            data.append(_heat(layer, panel))
        elif isinstance(layer, Guide):
            shapes.append(_guide_shape(layer))
            notes += _guide_note(layer, panel)
        elif isinstance(layer, Span):
            shapes += _span_shape(layer)
            notes.append(_span_note(layer, panel))
        else:
            data.append(_text(layer))
    layout = _layout(panel, data, alone) | {"shapes": shapes, "annotations": notes}
    return {"title": panel.title, "data": data, "layout": layout, "height": height}


def _layout(panel: Panel, data: list[Spec], alone: bool) -> Spec:
    many = sum(1 for trace in data if trace.get("showlegend")) > 1
    layout: Spec = {
        "autosize": True,
        "margin": {"l": 64, "r": 16, "t": 16, "b": 72 if _long(panel.x) else 56},
        "paper_bgcolor": "@paper/0",
        "plot_bgcolor": "@paper/0",
        "font": {"family": _FONT, "size": 12, "color": "@ink"},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@faint", "font": {"color": "@ink"}},
        "hovermode": "closest",
        "barmode": "stack",
        "showlegend": alone and many,
        "legend": {
            "orientation": "h",
            "yanchor": "top",
            "x": 0,
            "xanchor": "left",
            "font": {"color": "@ink"},
        },
    }
    if panel.bare:
        layout["margin"] = {"l": 4, "r": 4, "t": 4, "b": 4}
        layout["xaxis"] = {"visible": False, "fixedrange": True}
        # One unit in both directions, or circles would be ellipses.
        layout["yaxis"] = {"visible": False, "fixedrange": True, "scaleanchor": "x"}
        return layout
    categories = any(trace["type"] in ("heatmap", "bar") for trace in data)
    heat = any(trace["type"] == "heatmap" for trace in data)
    layout["xaxis"] = _axis(panel.x, _values(data, "x"), category=categories)
    layout["yaxis"] = _axis(panel.y, _values(data, "y"), category=heat)
    if heat:
        # Rows of a grid come from the top, and plotly counts from the bottom.
        layout["yaxis"]["autorange"] = "reversed"
    return layout


def _axis(axis: Axis, values: list[float], *, category: bool = False) -> Spec:
    spec: Spec = {
        "title": {
            "text": _plain(axis.title).replace(" (", "<br>(") if _long(axis) else _plain(axis.title),
            "standoff": 10,
        },
        "gridcolor": "@grid",
        "linecolor": "@faint",
        "zerolinecolor": "@grid",
        "tickcolor": "@faint",
        "tickfont": {"color": "@muted"},
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        # plotly raises exponents by inline styles, which the page's policy forbids.
        "exponentformat": "none",
        "separatethousands": True,
    }
    if category:
        return spec | {"type": "category", "showgrid": False}
    spec["type"] = axis.scale
    if axis.ticks is not None:
        spec |= {"tickmode": "array", "tickvals": [value for value, _ in axis.ticks]}
        spec["ticktext"] = [_plain(text) for _, text in axis.ticks]
    elif axis.scale == "log" and values:
        spec |= _decades(values)
    if axis.limits is not None:
        spec["range"] = [_place(value, axis) for value in axis.limits]
    return spec


def _long(axis: Axis) -> bool:
    """A title that would not fit beside a panel on a narrow screen."""
    return len(axis.title) > 34 and bool(axis.unit)


def _values(data: list[Spec], key: str) -> list[float]:
    return [value for trace in data for value in trace[key] if isinstance(value, int | float) and value > 0]


def _decades(values: list[float]) -> Spec:
    """Ticks at powers of ten in plain characters: plotly would raise exponents with inline styles, which the page's
    content security policy forbids. Within one decade its own ticks are better."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    if high - low < 2:
        return {}
    step = max(1, math.ceil((high - low) / 7))
    powers = range(low, high + 1, step)
    return {
        "tickmode": "array",
        "tickvals": [10.0**power for power in powers],
        "ticktext": [f"10{str(power).translate(_RAISED)}" for power in powers],
    }


def _line(layer: Line, panel: Panel, alone: bool) -> list[Spec]:
    trace: Spec = {
        "type": "scatter",
        "mode": "lines+markers" if layer.marker else "lines",
        "name": _plain(layer.name),
        "legendgroup": _plain(layer.name),
        "x": list(layer.x),
        "y": list(layer.y),
        "line": {"color": f"@{layer.color}", "width": layer.width, "dash": layer.dash},
        "marker": {"color": f"@{layer.color}", "size": 6},
        "showlegend": layer.legend and alone,
        # There for a click, where ten curves at once would hide each other.
        "visible": True if layer.shown else "legendonly",
    }
    trace |= {"hoverinfo": "skip"} if panel.bare else {"hovertemplate": _hover(panel)}
    if layer.low is None or layer.high is None:
        return [trace]
    return [_band(layer, trace), trace]


def _band(layer: Line, trace: Spec) -> Spec:
    assert layer.low is not None
    assert layer.high is not None
    # One closed outline, there and back: two curves with a filling between them would be two more in the legend.
    rows = [row for row in zip(layer.x, layer.low, layer.high, strict=True) if None not in row]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [row[0] for row in rows] + [row[0] for row in reversed(rows)],
        "y": [row[1] for row in rows] + [row[2] for row in reversed(rows)],
        "fill": "toself",
        "fillcolor": f"@{layer.color}/0.18",
        "line": {"width": 0, "color": f"@{layer.color}/0"},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": trace["legendgroup"],
        "name": trace["name"],
        "visible": trace["visible"],
    }


def _points(layer: Points, panel: Panel) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": _plain(layer.name),
        "x": list(layer.x),
        "y": list(layer.y),
        "text": [_plain(label) for label in layer.labels],
        "textposition": "top center",
        "textfont": {"color": "@ink", "size": 11},
        "marker": {"color": f"@{layer.color}", "size": 10, "line": {"color": "@paper", "width": 1}},
        "showlegend": layer.legend,
        # The label of a point at the edge would be cut in half.
        "cliponaxis": False,
        "hovertemplate": _hover(panel),
    }


def _bars(layer: Bars, panel: Panel) -> Spec:
    return {
        "type": "bar",
        "name": _plain(layer.name),
        "x": [_plain(name) for name in layer.categories],
        "y": list(layer.values),
        "marker": {"color": f"@{layer.color}"},
        "showlegend": True,
        "hovertemplate": _hover(panel),
    }


def _heat(layer: Heat, panel: Panel) -> Spec:
    roomy = len(layer.columns) <= 12 and len(layer.rows) <= 16
    return {
        "type": "heatmap",
        "name": "",
        "x": [_plain(name) for name in layer.columns],
        "y": [_plain(name) for name in layer.rows],
        "z": [list(row) for row in layer.values],
        "zmin": layer.low,
        "zmax": layer.high,
        "colorscale": [[place, color] for place, color in HEAT],
        "xgap": 2,
        "ygap": 2,
        "texttemplate": "%{z:.2f}" if roomy else "",
        "showlegend": False,
        # Where every cell prints its value, a scale of colours says nothing more.
        "showscale": not roomy,
        "hoverongaps": False,
        "colorbar": {
            "title": {"text": _plain(layer.label), "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hovertemplate": f"{_safe(panel.x.label)} %{{x}}<br>{_safe(panel.y.label)} %{{y}}<br>"
        f"{_safe(layer.label)} %{{z:.3f}}<extra></extra>",
    }


def _text(layer: Text) -> Spec:
    return {
        "type": "scatter",
        "mode": "text",
        "x": list(layer.x),
        "y": list(layer.y),
        "text": [_plain(text) for text in layer.texts],
        "textfont": {"color": "@muted", "size": 10},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _guide_shape(layer: Guide) -> Spec:
    across = {"xref": "x", "yref": "y domain", "x0": layer.value, "x1": layer.value, "y0": 0, "y1": 1}
    along = {"xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": layer.value, "y1": layer.value}
    line = {"color": f"@{layer.color}", "width": 1, "dash": "dash"}
    return {"type": "line", "layer": "below", "line": line, **(across if layer.axis == "x" else along)}


def _guide_note(layer: Guide, panel: Panel) -> list[Spec]:
    if not layer.label:
        return []
    note: Spec = {
        "text": _plain(layer.label),
        "showarrow": False,
        "font": {"color": f"@{layer.color}", "size": 11},
        # Curves pass behind it, and it must stay readable.
        "bgcolor": "@paper/0.7",
    }
    if layer.axis == "x":
        place = {
            "x": _place(layer.value, panel.x),
            "y": 0 if layer.far else 1,
            "xref": "x",
            "yref": "y domain",
        }
        return [
            note | place | {"xanchor": "right", "yanchor": "bottom" if layer.far else "top", "textangle": -90}
        ]
    place = {
        "x": 0.99 if layer.far else 0.01,
        "y": _place(layer.value, panel.y),
        "xref": "x domain",
        "yref": "y",
    }
    return [note | place | {"xanchor": "right" if layer.far else "left", "yanchor": "bottom"}]


def _span_shape(layer: Span) -> list[Spec]:
    place = {"xref": "x", "yref": "y domain", "x0": layer.low, "x1": layer.high, "y0": 0, "y1": 1}
    # Every second one: neighbours are told apart by shade and no shade, in any theme.
    shade = "@series-5/0.12" if layer.shaded else "@paper/0"
    return [{"type": "rect", "layer": "below", "fillcolor": shade, "line": {"width": 0}, **place}]


def _span_note(layer: Span, panel: Panel) -> Spec:
    middle = (_place(layer.low, panel.x) + _place(layer.high, panel.x)) / 2
    return {
        "text": _plain(layer.label),
        "showarrow": False,
        "font": {"color": "@muted", "size": 11},
        "x": middle,
        "y": 1,
        "xref": "x",
        "yref": "y domain",
        "yanchor": "top",
    }


def _hover(panel: Panel) -> str:
    place = f"{_safe(panel.x.title)}: %{{x}}<br>{_safe(panel.y.title)}: %{{y:.4~g}}"
    return f"%{{fullData.name}}<br>{place}<extra></extra>"


def _place(value: float, axis: Axis) -> float:
    """Ranges and annotations of a logarithmic axis want the exponent; shapes and data want the value."""
    return math.log10(value) if axis.scale == "log" else value


def _plain(text: str) -> str:
    """plotly reads a subset of HTML in every text; escaped, a text shows as it was written."""
    return html.escape(text, quote=False)


def _safe(text: str) -> str:
    """For hover templates, where %{...} is an expression too."""
    return _plain(text).replace("%{", "% {")
