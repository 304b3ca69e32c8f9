"""`ropewalk compare MODEL --target 8x`."""

from __future__ import annotations

import sys
from typing import Any

import click

from ropewalk.cli.common import (
    console,
    contract,
    device_option,
    emit_json,
    keeping,
    running_options,
    seed_option,
)
from ropewalk.cli.measuring import grid_option, measuring_options, tasks_option


@click.command()
@click.argument("model")
@click.option(
    "--target", default="8x", show_default=True, help="Target length: 32k, or 8x the original window."
)
@click.option(
    "--methods",
    default="all",
    show_default=True,
    help="With commas: methods, or all of them; position maps (zones, self-extend); either through another cache "
    "(yarn+q4). none, with --schedule, measures the files alone.",
)
@click.option(
    "--schedule",
    "schedules",
    multiple=True,
    metavar="FILE",
    help="A finished schedule as one more row (repeatable).",
)
@click.option(
    "--tune",
    "budget",
    metavar="BUDGET",
    help="Fit a schedule first, within 3m or 32steps, and measure it as the row `tuned`.",
)
@click.option(
    "--rank",
    type=click.Choice(["use", "retrieval", "key-tokens", "loss", "window"]),
    default="use",
    show_default=True,
    help="What comes first. use: retrieval, then key tokens (loss where those say nothing).",
)
@tasks_option("ppl,needle")
@measuring_options
@grid_option("packed")
@click.option("-o", "--output", metavar="RUN", help="Run folder; an unfinished one is completed.")
@seed_option
@device_option
@running_options
@contract
def command(
    model: str, output: str | None, budget: str | None, quiet: bool, as_json: bool, **settings: Any
) -> None:
    """Measure every method on MODEL, on text and retrieval, beside the unmodified and the cropped model.

    Each method runs with its defaults and, where that differs, at the factor that really reaches the target. Ctrl-C
    keeps what is finished; the same call with -o RUN completes it.
    """
    from ropewalk.cli.compare_view import show
    from ropewalk.cli.progress import Bar
    from ropewalk.evaluation.compare import compare

    if budget is not None:
        settings["candidates"] = [_tuned(model, output, budget, settings)]
    kept = None
    if output is not None:
        kept = f"methods that had ended are kept in {output}: the same line goes on there"
    with keeping(kept), Bar(quiet=quiet) as bar:
        result = compare(model, output=output, on_step=bar.compared, **settings)
    if as_json:
        emit_json(result.to_json())
        return
    screen = console()
    if sys.stdout.isatty():
        screen.print()
    show(screen, result, quiet=quiet)
    screen.print(f"\nRun: {result.run}", markup=False, soft_wrap=True)
    if result.verdict.next:
        screen.print(f"Next: {result.verdict.next}", markup=False, soft_wrap=True)


def _tuned(model: str, output: str | None, budget: str, settings: dict[str, Any]) -> Any:
    """The row `tuned`; its search has a run of its own beside the comparison's."""
    from ropewalk.search.candidate import tuned_candidate

    shared = ("target", "text", "seed", "device", "dtype", "attn", "trust_remote_code")
    run = None if output is None else f"{output}-tune"
    options = {name: settings[name] for name in shared if name in settings}
    return tuned_candidate(model, budget=budget, output=run, **options)
