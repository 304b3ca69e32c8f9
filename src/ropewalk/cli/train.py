"""`ropewalk train RECIPE`."""

from __future__ import annotations

import click

from ropewalk.cli.common import contract, device_option, emit_json, quiet_option
from ropewalk.errors import UsageError, one_line

# Around what carries loss; seldom met in text.
OPEN, CLOSE = "\u27ea", "\u27eb"


@click.command()
@click.argument("recipe", required=False)
@click.option(
    "-o", "--output", metavar="DIR", help="Run folder; by default a new one in $ROPEWALK_RUNS or ./runs."
)
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint in --output.")
@click.option("--allow-changes", is_flag=True, help="Resume although recipe or data differ from the run's.")
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="Import a module with generators of yours."
)
@click.option(
    "--show",
    type=click.IntRange(1),
    metavar="N",
    help="Print the first N rows with what is scored, and stop.",
)
@click.option(
    "--cache",
    metavar="DIR",
    help="Where made tokens are kept for the next run; `none` keeps nothing. By default $ROPEWALK_CACHE, or "
    "ropewalk in your cache folder.",
)
@device_option
@quiet_option
@contract
def command(
    recipe: str | None,
    output: str | None,
    resume: bool,
    allow_changes: bool,
    modules: tuple[str, ...],
    show: int | None,
    cache: str | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a model as RECIPE says: a YAML file, or the name of a bundled recipe (`ropewalk recipes ls`).

    A run that was stopped goes on bit for bit with `ropewalk train --resume -o RUN`.
    """
    import importlib
    import os
    import shlex

    if cache is not None:
        # In the environment, where every process of the run and its data workers find it.
        os.environ["ROPEWALK_CACHE"] = cache
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(
                f"--import {module}: {one_line(error)}", hint="give an importable module"
            ) from error
    if show is not None:
        if recipe is None:
            raise UsageError("--show needs a recipe", hint="give RECIPE, the YAML file or a bundled name")
        _show(recipe, show, as_json)
        return
    from ropewalk.training.run import train
    from ropewalk.training.stopping import Stopped

    try:
        result = train(
            recipe, output=output, resume=resume, allow_changes=allow_changes, device=device, quiet=quiet
        )
    except Stopped as stopped:
        stopped.add_note(
            f"saved: `ropewalk train --resume -o {shlex.quote(str(stopped.folder))}` goes on from here"
        )
        if stopped.code == 130:
            raise
        click.echo(f"ropewalk: stopped by SIGTERM: {stopped.__notes__[0]}", err=True)
        raise click.exceptions.Exit(stopped.code) from stopped
    except KeyboardInterrupt as stop:
        again = (
            f"`ropewalk train --resume -o {shlex.quote(output or 'RUN')}` goes on from the last checkpoint"
        )
        stop.add_note(again)
        raise
    if os.environ.get("RANK", "0") != "0":
        # Under a launcher one process speaks for all.
        return
    if as_json:
        emit_json(result.to_json())
        return
    final = result.final
    click.echo(f"{final['path']}  step {final['step']}  loss {final['loss']:.4f}  {final['tokens']} tokens")


def _show(recipe: str, rows: int, as_json: bool) -> None:
    """Rows as text: what carries loss stands between marks, weights other than 1 before them."""
    from ropewalk.training.preview import preview

    shown = preview(recipe, rows)
    if as_json:
        emit_json({"rows": [row.to_json() for row in shown]})
        return
    for number, row in enumerate(shown, 1):
        about = (
            f"{row.length} tokens, {row.scored} scored, {row.padding} padding, {len(row.documents)} documents"
        )
        click.echo(f"--- row {number}: {about}")
        for text, weight in row.pieces:
            mark = "" if weight == 1 else f"{weight:g}"
            click.echo(f"{mark}{OPEN}{text}{CLOSE}" if weight else text, nl=False)
        click.echo()
