"""`ropewalk export --format config MODEL --method yarn --factor 8`: the stretch in another program's own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ropewalk.cli.common import console, contract, emit_json, param_option, parse_params

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.models.dialects import Dialect
    from ropewalk.models.export import ExportResult
    from ropewalk.schedule import FrequencySchedule

_LONG_LIST = 8


@click.command("export")
@click.argument("model")
@click.option(
    "--format",
    "form",
    type=click.Choice(["config"]),
    default="config",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--method", default=None, help="A scaling method; without it, the scaling that MODEL already carries."
)
@click.option("--factor", type=float, default=None, help="The stretch, over the ORIGINAL window.")
@click.option("--target", default=None, help="The wanted window: 32k, 131072, or 8x.")
@click.option(
    "--schedule",
    "file",
    type=click.Path(path_type=Path),
    default=None,
    help="A schedule file instead of a method.",
)
@click.option(
    "--to", default=None, help="One reader only: transformers, transformers-4, vllm, sglang, llama.cpp, mlx."
)
@click.option(
    "--layers",
    type=click.Choice(["full", "all"]),
    default="full",
    show_default=True,
    help="Models with frequencies for each layer type: their full-attention layers, or all.",
)
@param_option
@contract
def command(
    model: str,
    form: str,
    method: str | None,
    factor: float | None,
    target: str | None,
    file: Path | None,
    to: str | None,
    layers: str,
    params: tuple[str, ...],
    as_json: bool,
) -> None:
    """The configuration of a stretched model as each program reads it, with what is exact and what is not.

    MODEL is a folder, a config.json, hemp, or a Hub id. Nothing is written.
    """
    from ropewalk.errors import UsageError
    from ropewalk.models.export import export_config

    if file is not None and (method is not None or factor is not None or params):
        raise UsageError(
            "--schedule already holds method, factor and parameters", hint="give one or the other"
        )
    chosen = method if file is None else _schedule(file)
    result = export_config(
        model, chosen, factor=factor, target=target, parameters=parse_params(params), to=to, layers=layers
    )
    if as_json:
        emit_json(result.to_json())
        return
    _show(console(), result)


def _schedule(file: Path) -> FrequencySchedule:
    from ropewalk.models.config import read_json
    from ropewalk.schedule import FrequencySchedule as Schedule

    return Schedule.from_json(read_json(file))


def _show(screen: Console, result: ExportResult) -> None:
    from ropewalk.models.structure.values import plain
    from ropewalk.units import format_length

    made = result.schedule
    window = f"{format_length(made.geometry.original_length)} -> {format_length(result.target_length)} tokens"
    screen.print(
        f"{plain(result.source, 200)}: {made.method}, factor {made.factor:g}, {window}",
        style="bold",
        markup=False,
    )
    for note in result.notes:
        screen.print(note, markup=False, soft_wrap=True)
    for dialect in result.dialects:
        _show_one(screen, dialect)


def _show_one(screen: Console, dialect: Dialect) -> None:
    from rich.text import Text

    head = Text(f"\n{dialect.title}", style="bold")
    if dialect.exact:
        head.append("  exact", style="green")
        head.append("" if dialect.basis == "measured" else f" ({dialect.basis}, not run)", style="dim")
    else:
        head.append(f"  not exact: {dialect.reason}", style="yellow")
    screen.print(head, soft_wrap=True)
    if dialect.content and dialect.how:
        screen.print(f"{dialect.how}:", style="dim", markup=False)
    if dialect.command is not None:
        screen.print(dialect.command, markup=False, soft_wrap=True)
    elif dialect.content:
        screen.print(_pretty(dict(dialect.content)), markup=False, soft_wrap=True)
    for note in dialect.notes:
        screen.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


def _pretty(content: object) -> str:
    """JSON that can be copied whole, with long lists of factors on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=True)
    lines: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        if inside is not None:
            inside.append(line.strip())
            if line.strip().startswith("]"):
                lines.append("".join(inside[:1]) + " ".join(inside[1:]))
                inside = None
        elif line.endswith("["):
            inside = [line]
        else:
            lines.append(line)
    return "\n".join(lines)
