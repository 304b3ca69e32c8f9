"""The parts of `ropewalk export` beside the programs themselves: ladders, companion models, training stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.units import parse_factors, split_names

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.models.stretch import ScheduleFile
    from ropewalk.runtimes.drafts import Draft
    from ropewalk.runtimes.export import ExportResult
    from ropewalk.runtimes.ladder import Ladder


def ladder_of(
    model: str,
    method: str | ScheduleFile | None,
    names: Sequence[str],
    factors: str,
    parameters: dict[str, Any],
    options: Mapping[str, Any],
) -> Ladder:
    """The ladder that `--ladder` asks for."""
    from ropewalk.errors import UsageError
    from ropewalk.runtimes.ladder import Output, export_ladder

    if len(names) != 1 or method is None:
        raise UsageError(
            "a ladder is for one program and one method", hint="give --to vllm --method yarn --ladder 1,2,4,8"
        )
    if options["factor"] is not None or options["target"] is not None:
        raise UsageError("--ladder already says how far", hint="leave out --factor and --target")
    wanted = parse_factors(factors)
    output = None
    if options["output"] is not None:
        output = Output(
            Path(options["output"]), options["gguf"], options["gguf_type"], force=options["force"]
        )
    return export_ladder(
        model,
        method,
        wanted,
        to=names[0],
        parameters=parameters,
        allow_approximate=options["allow_approximate"],
        output=output,
    )


def show_ladder(screen: Console, made: Ladder) -> None:
    """Which prompt goes where, and each rung's launch line."""
    for rung, line in zip(made.rungs, made.router, strict=True):
        answer = rung.result.exports[0].answer
        screen.print(line, style="bold", markup=False, soft_wrap=True)
        screen.print(f"  {answer.describe()}", style="dim", markup=False, soft_wrap=True)
        if rung.command is not None:
            screen.print(f"  {rung.command}", markup=False, soft_wrap=True)
        elif rung.result.exports[0].files:
            screen.print(f"  {rung.result.exports[0].files[0]}", markup=False, soft_wrap=True)
    for note in made.notes:
        screen.print(f"note: {note}", markup=False, soft_wrap=True)


def drafts_of(result: ExportResult, given: str | None, output: Path | None) -> list[Draft]:
    """The companions of the model, stretched alike; with an output each is written to OUT/draft."""
    from ropewalk.runtimes.companions import companions_of

    return companions_of(result, given, None if output is None or output.suffix else output)


def show_drafts(screen: Console, drafts: Sequence[Draft]) -> None:
    """One line a companion."""
    for draft in drafts:
        mark = "rotates alike" if draft.alike else "DIFFERS"
        screen.print(f"\ncompanion {draft.source}: {mark}; {draft.detail}", markup=False, soft_wrap=True)


def training_of(result: ExportResult, stacks: str | None, output: Path | None) -> dict[str, str]:
    """The blocks of the training stacks that were named, over the folder that was written, or the model."""
    from ropewalk.runtimes.trainers import training_block

    if stacks is None:
        return {}
    folder = next(
        (
            str(Path(made.files[0]).parent)
            for made in result.exports
            if made.runtime == "transformers" and made.files
        ),
        result.source,
    )
    names = split_names(stacks)
    return {name: training_block(name, result.job, folder) for name in names}


def show_training(screen: Console, blocks: Mapping[str, str]) -> None:
    """The blocks, ready to be pasted."""
    for block in blocks.values():
        screen.print(f"\n{block}", markup=False, soft_wrap=True)
