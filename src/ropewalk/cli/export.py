"""`ropewalk export MODEL --to vllm`: a stretch as each program wants it written, and what it will make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import console, contract, emit_json, param_option, parse_params
from ropewalk.units import split_names

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.runtimes.export import Exported, ExportResult

_STYLE = {
    "exact": "green",
    "approximate": "yellow",
    "unknown": "yellow",
    "ignored": "bold red",
    "refused": "bold red",
}


@click.command("export")
@click.argument("model")
@click.option(
    "--to",
    multiple=True,
    metavar="PROGRAM",
    help="transformers, vllm, sglang, llama.cpp, mlx, ollama, exllama; several at once. Default: show all.",
)
@click.option("--format", "form", type=click.Choice(["config"]), default="config", hidden=True)
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
    help="A schedule or ladder file instead of a method.",
)
@click.option(
    "--layers",
    type=click.Choice(["full", "all"]),
    default="full",
    show_default=True,
    help="Models with frequencies for each layer type: their full-attention layers, or all.",
)
@click.option(
    "-o",
    "--output",
    "--out",
    "output",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE|DIR",
    help="Write what each program needs: its folder, or its .gguf or .json file. Several programs: a folder each.",
)
@click.option(
    "--gguf",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="For llama.cpp and ollama: copy this file of the same model with the schedule in it, instead of converting.",
)
@click.option(
    "--gguf-type",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Float type of a converted GGUF file; auto is the checkpoint's own.",
)
@click.option(
    "--weights",
    type=click.Choice(["link", "symlink", "copy", "none"]),
    default="link",
    show_default=True,
    help="How weights come into a folder.",
)
@click.option("--force", is_flag=True, help="Replace an earlier export or a checkpoint at FILE|DIR.")
@click.option(
    "--allow-approximate",
    is_flag=True,
    help="Also write what a program will not, or may not, compute exactly.",
)
@click.option(
    "--ladder",
    default=None,
    metavar="FACTORS",
    help="One profile a factor instead, so that short prompts do not pay for long ones: 1,2,4,8.",
)
@click.option("--draft", default=None, metavar="MODEL", help="A draft model or head that must rotate alike.")
@click.option(
    "--training",
    default=None,
    metavar="STACKS",
    help="Print blocks for trl, verl, axolotl, llama-factory: trainer and rollout rotate alike.",
)
@param_option
@contract
def command(model: str, to: tuple[str, ...], params: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """A stretched model as each program reads it, with what is exact on this architecture and how that is known.

    MODEL is a folder, a config.json, hemp, or a Hub id. With -o the files are written.
    """
    from ropewalk.errors import UsageError
    from ropewalk.models.stretch import read_schedules
    from ropewalk.runtimes.writing import export

    options.pop("form")
    file, method = options.pop("file"), options.pop("method")
    if file is not None and (method is not None or params):
        raise UsageError("--schedule already holds method and parameters", hint="give one or the other")
    chosen = method if file is None else read_schedules(file)
    ladder, draft, training = (options.pop(name) for name in ("ladder", "draft", "training"))
    if ladder is not None:
        from ropewalk.cli.export_extras import ladder_of, show_ladder

        if draft is not None or training is not None:
            raise UsageError("--ladder writes one model a rung", hint="leave out --draft and --training")
        made = ladder_of(model, chosen, _names(to), ladder, parse_params(params), options)
        if as_json:
            emit_json(made.to_json())
        else:
            show_ladder(console(), made)
        return
    result = export(model, chosen, to=_names(to) or None, parameters=parse_params(params), **options)
    from ropewalk.cli.export_extras import drafts_of, show_drafts, show_training, training_of

    drafts, blocks = (
        drafts_of(result, draft, options["output"]),
        training_of(result, training, options["output"]),
    )
    if as_json:
        extra: dict[str, Any] = {"drafts": [found.to_json() for found in drafts]} if drafts else {}
        emit_json(result.to_json() | extra | ({"training": blocks} if blocks else {}))
        return
    _show(console(), result)
    show_drafts(console(), drafts)
    show_training(console(), blocks)


def _names(given: tuple[str, ...]) -> list[str]:
    """`--to vllm --to mlx` and `--to vllm,mlx` alike."""
    return [name for names in given for name in split_names(names)]


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
    if any(exported.files for exported in result.exports):
        for written in result.exports:
            _show_head(screen, written)
            screen.print(
                f"wrote {len(written.files)} files: {written.files[0]}", markup=False, soft_wrap=True
            )
            for note in () if written.fragment is None else written.fragment.notes:
                screen.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
            if written.launch:
                screen.print(written.launch, markup=False, soft_wrap=True)
        return
    for exported in result.exports:
        _show_one(screen, exported, alone=len(result.exports) == 1)


def _show_one(screen: Console, made: Exported, *, alone: bool) -> None:
    _show_head(screen, made)
    if made.nearest is not None:
        screen.print(f"instead: {made.nearest.describe()}", markup=False, soft_wrap=True)
    if made.fragment is None or not (made.answer.exact or alone):
        return
    screen.print(f"{made.fragment.where}:", style="dim", markup=False)
    if made.launch is None or "GGUF" in made.fragment.where:
        screen.print(_pretty(dict(made.fragment.content)), markup=False, soft_wrap=True)
    if made.launch is not None:
        screen.print(made.launch, markup=False, soft_wrap=True)
    for note in made.fragment.notes:
        screen.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)


def _show_head(screen: Console, made: Exported) -> None:
    from rich.text import Text

    head = Text(f"\n{made.title}", style="bold")
    head.append(f"  {made.answer.outcome}", style=_STYLE[made.answer.outcome])
    known = made.answer.known_by
    if made.answer.exact and known is not None:
        head.append(f" ({known.describe()})", style="dim")
    elif made.answer.reason:
        head.append(f": {made.answer.reason}", style="yellow")
    screen.print(head, soft_wrap=True)


def _pretty(content: object) -> str:
    """JSON that can be copied whole, with long lists of factors on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=True)
    lines: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        if inside is not None:
            inside.append(line.strip())
            # A list of sixty factors, one a line, would push the command below it off the screen.
            if line.strip().startswith("]"):
                lines.append("".join(inside[:1]) + " ".join(inside[1:]))
                inside = None
        elif line.endswith("["):
            inside = [line]
        else:
            lines.append(line)
    return "\n".join(lines)
