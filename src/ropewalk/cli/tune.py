"""`ropewalk tune MODEL --target 8x`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import (
    console,
    contract,
    device_option,
    emit_json,
    running_options,
    seed_option,
)
from ropewalk.errors import UsageError, shown_command
from ropewalk.units import parse_factors, split_names

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.search.result import TuneResult


@click.command()
@click.argument("model")
@click.option("--target", help="Target length: 32k, or 8x the original window, which is the default.")
@click.option(
    "--ladder",
    metavar="FACTORS",
    help="One fit for several factors, such as 2,4,8; in the place of --target.",
)
@click.option(
    "--text",
    metavar="FILE|DIR|DATASET",
    help="Text to fit and to validate on (other documents of it); by default the library's training half.",
)
@click.option(
    "--search",
    type=click.Choice(["fit", "sweep", "zones", "layers", "cma", "evolution"]),
    default="fit",
    show_default=True,
    help="Gradient fit; sweep alone; two zones; a table for each layer; CMA-ES (optuna); LongRoPE's evolution.",
)
@click.option("--budget", default="32steps", show_default=True, help="200steps, 90s, 10m or 1h.")
@click.option(
    "--tasks",
    help="Planted answers in the objective, with commas between, or none; by default needle, kv and multi-needle, "
    "for zones passkey too.",
)
@click.option("--start", metavar="METHOD", help="Start from this method's defaults instead of sweeping.")
@click.option("--storage", metavar="URL", help="optuna storage that several --search cma workers share.")
@click.option(
    "--temperatures",
    type=click.Choice(["one", "layers", "heads"]),
    default="one",
    show_default=True,
    help="One attention temperature, or one a layer or a head besides, for `extend --temperature` to fold in.",
)
@click.option("-o", "--output", metavar="RUN", help="Run folder; an unfinished one is continued.")
@seed_option
@device_option
@running_options
@contract
def command(
    model: str,
    target: str | None,
    ladder: str | None,
    text: str | None,
    search: str,
    budget: str,
    tasks: str | None,
    start: str | None,
    storage: str | None,
    temperatures: str,
    output: str | None,
    seed: int,
    device: str,
    dtype: str,
    attn: str,
    trust_remote_code: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fit a schedule to MODEL: a monotone profile of the frequencies and one temperature, the weights frozen.

    The best of a quick sweep is the start; validation on other text and other planted answers keeps the best point,
    or the start where nothing beat it. Ctrl-C keeps the best so far; the same call with -o RUN goes on.
    """
    from ropewalk.cli.progress import Bar
    from ropewalk.search.tune import tune

    with Bar(quiet=quiet) as bar:
        result = tune(
            model,
            target=target,
            ladder=None if ladder is None else parse_factors(ladder),
            text=text,
            search=search,
            budget=budget,
            tasks=_tasks(tasks),
            start=start,
            storage=storage,
            temperatures=temperatures,
            output=output,
            seed=seed,
            device=device,
            dtype=dtype,
            attn=attn,
            trust_remote_code=trust_remote_code,
            on_told=bar.tuned,
        )
    if not bar.main:
        return
    if as_json:
        emit_json(result.to_json())
        return
    show(console(), model, result)


def _tasks(written: str | None) -> list[str] | None:
    if written is None:
        return None
    if written.strip() == "none":
        return []
    names = split_names(written)
    if not names:
        raise UsageError(f"--tasks {written!r} names nothing", hint="write needle,kv, or none")
    return names


def show(screen: Console, model: str, result: TuneResult) -> None:
    """The table of before and after, the verdict, the schedule's place and what to do with it."""
    from rich.table import Table

    from ropewalk.units import format_length

    table = Table(box=None, pad_edge=False)
    for heading in ("", "loss", "at the target", "in the window", "key tokens", "answers found"):
        table.add_column(heading, justify="left" if not heading else "right")
    for rung in result.rungs:
        where = f", {format_length(rung.length)}" if len(result.rungs) > 1 else ""
        table.add_row(f"{rung.start}{where}", *_cells(rung.before))
        # Where nothing beat the start, the row of the start is the answer and a second one would repeat it.
        if rung.kept_start is None and result.search != "sweep":
            table.add_row(f"{'tuned' if result.map is None else result.search}{where}", *_cells(rung.after))
        table.add_row(f"cropped{where}", "", _number(rung.controls.get("cropped")), "", "", "", style="dim")
    inside = result.controls.get("unmodified_in_window")
    table.add_row("the model itself", "", "", _number(inside), "", "", style="dim")
    screen.print(table)
    screen.print(f"\n{result.verdict()}", markup=False)
    for remark in result.remarks:
        screen.print(remark, markup=False)
    screen.print(
        f"{result.steps} steps of {result.passes} sequences; {result.forward_equivalents:.0f} forward passes' "
        f"worth in all, {result.seconds:.0f} s; ended because {result.stopped}",
        markup=False,
    )
    screen.print(f"Run: {result.run}", markup=False)
    file = result.ladder or result.schedule
    line = shown_command("extend", model, schedule=file, temperature=result.temperatures, o="OUT")
    if result.map is not None:
        measured = shown_command("compare", model, target=str(result.target_length), schedule=result.map)
        screen.print(f"Measured with intervals: {measured}", markup=False, soft_wrap=True)
        run = shown_command("generate", model, prompt_file="FILE", schedule=result.map)
        screen.print(f"{result.search.capitalize()} are Ropewalk's own: {run}", markup=False, soft_wrap=True)
        screen.print(f"For stock programs, the best single table: {line}", markup=False, soft_wrap=True)
        return
    screen.print(f"Next: {line}", markup=False, soft_wrap=True)


def _cells(measured: Any) -> list[str]:
    found = measured.get("retrieval_at_target")
    names = ("loss", "loss_at_target", "loss_in_window", "key_token_loss")
    return [*(_number(measured.get(name)) for name in names), "" if found is None else f"{found:.0%}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
