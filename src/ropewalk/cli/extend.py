"""`ropewalk extend`: write the extended checkpoint."""

from __future__ import annotations

from typing import Any

import click

from ropewalk.cli.common import (
    console,
    contract,
    emit_json,
    param_option,
    parse_params,
    quiet_option,
    trust_option,
)


@click.command()
@click.argument("model")
@click.option(
    "-o", "--output", "--out", "output", metavar="FOLDER", help="Where the extended checkpoint goes."
)
@click.option("--target", metavar="LENGTH", help="Window to reach: 32k, 131072, or 8x the original one.")
@click.option("--factor", type=float, help="Stretch of the original window, instead of or beside --target.")
@click.option("--method", default="yarn", show_default=True, help="A method of `ropewalk methods`.")
@param_option
@click.option(
    "--schedule", metavar="FILE", help="A finished schedule, or a ladder of them, instead of a method."
)
@click.option(
    "--weights",
    type=click.Choice(["link", "symlink", "copy", "none"]),
    default="link",
    show_default=True,
    help="How weight files come along; link makes hard links.",
)
@click.option(
    "--layers",
    type=click.Choice(["full", "all"]),
    default="full",
    show_default=True,
    help="Stretch full-attention layers only, or sliding-window layers too.",
)
@click.option(
    "--repair", is_flag=True, help="Mend what `ropewalk inspect` finds wrong; works without a target too."
)
@click.option(
    "--original-length",
    metavar="TOKENS",
    help="With --repair: the window that was trained, where the file leaves it open.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would be written, value by value, and write nothing."
)
@click.option(
    "--draft", metavar="MODEL", help="A draft model, stretched alike to the same window, into FOLDER/draft."
)
@click.option(
    "--temperature",
    metavar="NAME",
    help="Fold an attention temperature into the weights: constant:1.1, entropy-matched, or a file of `tune`.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Write a new stretch even where the model's own reaches the target already.",
)
@click.option("--force", is_flag=True, help="Replace an existing checkpoint folder at FOLDER.")
@trust_option
@quiet_option
@contract
def command(
    as_json: bool,
    quiet: bool,
    model: str,
    params: tuple[str, ...],
    original_length: str | None,
    temperature: str | None,
    **options: Any,
) -> None:
    """Write MODEL with a longer window to a new folder: configuration only, weights linked, for stock transformers.

    MODEL is a folder, a Hub id, or `hemp`, the bundled model. Example:

        ropewalk extend hemp --target 4k --method yarn -o hemp-4k
    """
    from ropewalk.models.extend import extend
    from ropewalk.units import parse_length

    trained = None if original_length is None else parse_length(original_length)
    if temperature is not None:
        from ropewalk.attention.saving import folding

        options["finish"] = folding(temperature)
    result = extend(model, params=parse_params(params), original_length=trained, **options)
    if as_json:
        emit_json(result.to_json())
    elif not quiet:
        _show(result)


def _show(result: Any) -> None:
    from ropewalk.errors import shown_command
    from ropewalk.units import format_length

    out = console()
    made = result.schedule
    place = "dry run, nothing written" if result.dry_run else result.output
    for finding in result.repaired:
        out.print(f"mended: {finding}", markup=False)
    for change in result.changed if result.repaired or result.dry_run else ():
        out.print(f"  {change}", markup=False, soft_wrap=True)
    if made is not None:
        original = made.geometry.original_length
        out.print(
            f"{place}: {format_length(original)} → {format_length(result.target_length)} tokens "
            f"by {made.method} (factor {made.factor:g}), written as {result.written_as}, weights: {result.weights}",
            markup=False,
        )
    else:
        out.print(f"{place}: configuration only, window unchanged, weights: {result.weights}", markup=False)
    for note in result.notes:
        out.print(f"note: {note}", markup=False)
    if made is not None:
        for error in result.angle_errors:
            out.print(f"angle error at {error}", markup=False)
        if not result.dry_run:
            # Not wrapped: a line that is to be pasted is one line.
            out.print(f"next: {shown_command('verify', result.output)}", markup=False, soft_wrap=True)
