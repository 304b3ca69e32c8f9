"""`ropewalk plot`."""

from __future__ import annotations

import click

from ropewalk.cli.common import contract, emit_json, param_option, parse_params
from ropewalk.units import split_names


@click.command()
@click.argument("kind", required=False)
@click.argument("source", metavar="MODEL|RUN", required=False)
@click.option("-o", "--output", type=click.Path(), help="FILE.svg, FILE.png or FILE.pdf. Default: KIND.svg.")
@click.option("--method", "methods", metavar="NAME,...", help="Methods to draw, separated by commas.")
@click.option("--target", metavar="LENGTH", help="Target length, 32k or 8x. Default: 8x.")
@click.option("--dark", is_flag=True, help="Light on dark.")
@click.option(
    "--dpi", type=click.IntRange(30, 1200), default=200, show_default=True, help="Resolution of a PNG."
)
@param_option
@contract
def command(
    kind: str | None,
    source: str | None,
    output: str | None,
    methods: str | None,
    target: str | None,
    dark: bool,
    dpi: int,
    params: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw one figure of a model's geometry, from its config.json alone, or of a run.

    Without arguments: the kinds of figures. `ropewalk plot wavelength MODEL --target 32k --method yarn,ntk -o fig.svg`
    """
    from ropewalk.errors import UsageError

    if kind is None:
        _list_kinds(as_json)
        return
    if source is None:
        raise UsageError(f"figure {kind!r} of what?", hint=f"`ropewalk plot {kind} MODEL -o {kind}.svg`")
    from ropewalk.report.plotting import plot

    path = output or f"{kind}.svg"
    names = split_names(methods) if methods else None
    figure = plot(
        kind, source, path, methods=names, target=target, parameters=parse_params(params), dark=dark, dpi=dpi
    )
    if as_json:
        emit_json(
            {
                "figure": kind,
                "output": path,
                "title": figure.title,
                "alt": figure.alt,
                "sources": figure.sources,
            }
        )
    else:
        click.echo(f"{path}: {figure.title}")


def _list_kinds(as_json: bool) -> None:
    from ropewalk.report.figures import KINDS

    if as_json:
        emit_json(
            {
                "figures": [
                    {"name": kind.name, "shows": kind.shows, "source": kind.source} for kind in KINDS.values()
                ]
            }
        )
        return
    from rich.table import Table

    from ropewalk.cli.common import console

    table = Table("figure", "shows", "drawn from", box=None, padding=(0, 2, 0, 0))
    for kind in KINDS.values():
        table.add_row(
            kind.name, kind.shows, "MODEL" if kind.source == "model" else f"RUN ({', '.join(kind.run_kinds)})"
        )
    console().print(table)
