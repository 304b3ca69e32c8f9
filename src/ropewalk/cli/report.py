"""`ropewalk report`."""

from __future__ import annotations

import click

from ropewalk.cli.common import contract, emit_json


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    default="report.html",
    show_default=True,
    help="The page to write, FILE.html.",
)
@click.option("--title", help="Title of the page. Default: what the runs are about.")
@contract
def command(runs: tuple[str, ...], output: str, title: str | None, as_json: bool) -> None:
    """One self-contained HTML page from one run or several.

    RUN is a folder, an id of `ropewalk runs ls`, the beginning or end of one, or `last`. Runs that cannot be read are
    named, and the rest of the page is still made.
    """
    from ropewalk.report.report import report
    from ropewalk.units import format_bytes

    result = report(runs, output, title=title)
    for problem in result.problems:
        click.echo(f"ropewalk: warning: {problem}", err=True)
    if as_json:
        emit_json(result.to_json())
    else:
        count = "one run" if len(result.runs) == 1 else f"{len(result.runs)} runs"
        click.echo(f"{result.output}: {count}, {format_bytes(result.bytes)}")
