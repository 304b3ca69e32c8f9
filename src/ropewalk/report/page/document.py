"""The page as one HTML file: template, style, scripts and data inside it, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from ropewalk._version import __version__
from ropewalk.errors import RopewalkError
from ropewalk.report.figure import Figure
from ropewalk.report.page.build import Page
from ropewalk.report.palette import DARK, LIGHT
from ropewalk.report.render import plotly as renderer

MAX_BYTES = 6 * 1024**2
# plotly.js gives its map library's style sheet to the document unless an element with that sheet's id exists.
_STYLE_ID = re.compile(r'getElementById\("([0-9a-f]{64})"\)')


def render(page: Page) -> bytes:
    """The file's bytes; the same page gives the same bytes."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style, script, library = _asset("page.css") + _swatches(), _asset("page.js"), _library()
    figures = _Figures()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"figure_id": figures.add}
    template = environment.from_string(_asset("page.html.j2"))
    body = template.render(
        page=page,
        version=__version__,
        policy=_policy(style, script, library),
        style=Markup(style),
        script=Markup(script),
        held_ids=sorted(set(_STYLE_ID.findall(library))),
        # Filled in below: the figures are known only once the template has asked for them.
        data=_DATA_MARK,
        library=Markup(_packed(library)),
    )
    document = body.replace(
        _DATA_MARK, _json({"light": dict(LIGHT), "dark": dict(DARK), "figures": figures.specs})
    )
    # A file name that is not UTF-8 reaches a run as lone surrogates, which no encoding takes.
    content = document.encode("utf-8", "replace")
    if len(content) > MAX_BYTES:
        raise RopewalkError(
            f"the report would have {len(content) / 1024**2:.1f} MiB, more than {MAX_BYTES // 1024**2}",
            hint="make one report for fewer runs",
        )
    return content


# Letters of private use; a run's own text that held them would only show the figures' numbers, escaped.
_DATA_MARK = "\ue000figures\ue000"


class _Figures:
    """Numbers the figures in the order in which the template places them."""

    def __init__(self) -> None:
        self.specs: list[dict[str, Any]] = []

    def add(self, figure: Figure) -> dict[str, Any]:
        """The element ids, titles and heights of a figure's panels, and its shared legend."""
        places = []
        for panel in renderer.panels(figure):
            places.append(
                {"id": f"figure-{len(self.specs)}", "title": panel["title"], "height": panel["height"]}
            )
            self.specs.append(
                {"data": panel["data"], "layout": panel["layout"] | {"height": panel["height"]}}
            )
        return {"panels": places, "legend": renderer.legend(figure)}


def _policy(style: str, script: str, library: str) -> str:
    """Nothing may be loaded or sent; only these very scripts and this style sheet count.

    The empty style is plotly.js's: it clears style attributes, and fills a blank sheet through the object model.
    """
    scripts = f"{_hash(script)} {_hash(library)}"
    return (
        f"default-src 'none'; script-src {scripts}; style-src-elem {_hash(style)} {_hash('')}; "
        f"style-src-attr 'unsafe-hashes' {_hash('')}; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _json(document: Any) -> str:
    """JSON inside a script element: no character may end the element or a line of it."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _swatches() -> str:
    """Legend colours from the palette of the figures."""
    names = [name for name in LIGHT if name.startswith("series-")]
    light = [f".swatch.{name} {{ background: {LIGHT[name]}; }}" for name in names]
    dark = [f':root[data-theme="dark"] .swatch.{name} {{ background: {DARK[name]}; }}' for name in names]
    return "\n".join([*light, *dark]) + "\n"


@cache
def _asset(name: str) -> str:
    return files("ropewalk.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """plotly.js as the plotly package ships it."""
    try:
        return files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8").strip()
    except (ModuleNotFoundError, OSError) as error:
        raise RopewalkError(
            "the plotly package is not installed whole", hint="pip install --force-reinstall plotly"
        ) from error


@cache
def _packed(text: str) -> str:
    """gzip, base64: the page's script unpacks it, so that a report is 2 MB instead of 5."""
    # Without a time in its header: the same page is the same bytes.
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")
