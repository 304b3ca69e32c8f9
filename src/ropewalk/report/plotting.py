"""`ropewalk plot`: one figure to one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.files import as_path, write_bytes
from ropewalk.report.figure import Figure
from ropewalk.report.figures import find_kind
from ropewalk.report.render.matplotlib import FORMATS, draw
from ropewalk.report.views import DEFAULT_METHODS


def plot(
    kind: str,
    source: str | Path,
    output: str | Path,
    *,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
    dark: bool = False,
    dpi: int = 200,
) -> Figure:
    """Draw a figure of a model (from its config.json alone) or of a run into an SVG, PNG or PDF file.

    The output's ending names the format. Returns the figure as data. The same inputs give the same bytes.
    """
    path = as_path(output, "output")
    file_format = path.suffix.removeprefix(".").lower()
    if file_format not in FORMATS:
        raise UsageError(f"{path} does not end in a figure format", hint="end it in .svg, .png or .pdf")
    figure = make_figure(kind, source, methods=methods, target=target, parameters=parameters)
    write_bytes(path, draw(figure, file_format, dark=dark, dpi=dpi))
    return figure


def make_figure(
    kind: str,
    source: str | Path,
    *,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Figure:
    """The figure as data, not drawn."""
    found = find_kind(kind)
    if found.source == "model":
        from ropewalk.report.sources import view_of_model

        view = view_of_model(source, methods=methods or DEFAULT_METHODS, target=target, parameters=parameters)
        return found.build(view)
    if methods or target or parameters:
        raise UsageError(
            f"figure {kind!r} shows what a run measured; methods, target and parameters are the run's own",
            hint="leave --method, --target and -p out",
        )
    return found.build((_run_view(kind, found.run_kinds, source),))


def _run_view(kind: str, run_kinds: Sequence[str], source: str | Path) -> Any:
    from ropewalk.report.sources import view_of_run
    from ropewalk.runs.index import find_run
    from ropewalk.runs.unfinished import look_at_run

    needs = f"figure {kind!r} is drawn from a run of kind {' or '.join(run_kinds)}"
    if Path(source).is_dir() and (Path(source) / "config.json").is_file():
        raise UsageError(f"{source} is a model, {needs}", hint="`ropewalk runs ls` lists the runs")
    run = look_at_run(find_run(source))
    if run.kind not in run_kinds:
        raise UsageError(
            f"run {run.id} is of kind {run.kind!r}, {needs}", hint="`ropewalk runs ls` lists the runs"
        )
    return view_of_run(run)
