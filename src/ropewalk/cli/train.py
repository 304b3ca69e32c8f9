"""`ropewalk train RECIPE`."""

from __future__ import annotations

import click

from ropewalk.cli.common import contract, device_option, emit_json, quiet_option
from ropewalk.errors import UsageError, one_line


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
@device_option
@quiet_option
@contract
def command(
    recipe: str | None,
    output: str | None,
    resume: bool,
    allow_changes: bool,
    modules: tuple[str, ...],
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a model as RECIPE says: a YAML file, or the name of a bundled recipe (`ropewalk recipes ls`).

    A run that was stopped goes on bit for bit with `ropewalk train --resume -o RUN`.
    """
    import importlib
    import os

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(
                f"--import {module}: {one_line(error)}", hint="give an importable module"
            ) from error
    from ropewalk.training.run import train

    try:
        result = train(
            recipe, output=output, resume=resume, allow_changes=allow_changes, device=device, quiet=quiet
        )
    except KeyboardInterrupt:
        click.echo(f"ropewalk: `ropewalk train --resume -o {output or 'RUN'}` goes on from here", err=True)
        raise
    if os.environ.get("RANK", "0") != "0":
        # Under a launcher one process speaks for all.
        return
    if as_json:
        emit_json(result.to_json())
        return
    final = result.final
    click.echo(f"{final['path']}  step {final['step']}  loss {final['loss']:.4f}  {final['tokens']} tokens")
