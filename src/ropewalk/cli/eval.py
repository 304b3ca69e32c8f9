"""`ropewalk eval MODEL|URL --lengths 4k..32k`."""

from __future__ import annotations

from typing import Any

import click

from ropewalk.cli.common import console, contract, emit_json, keeping, running_options, seed_option
from ropewalk.cli.measuring import grid_option, measuring_options, tasks_option


@click.command()
@click.argument("model")
@click.option("--lengths", help="4k..32k (doubling) or 4k,8k,12k. Default: half the window to all of it.")
@tasks_option("ppl,passkey")
@measuring_options
@click.option(
    "--protocol",
    type=click.Choice(["prefix", "sliding"]),
    default="prefix",
    show_default=True,
    help="prefix: every length from one forward. sliding: the published window protocol.",
)
@click.option(
    "--stride", type=int, default=256, show_default=True, help="Step of the sliding window, in tokens."
)
@click.option(
    "--window-mean", is_flag=True, help="Sliding: average windows, not tokens (the YaRN script's way)."
)
@click.option("--span", help="Sliding: tokens of a text to slide over. Default: twice the longest length.")
@click.option(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Cropped context and the unmodified model.",
)
@click.option("--base", metavar="MODEL", help="The unmodified model, for the controls.")
@click.option(
    "--schedule",
    metavar="FILE",
    help="Measure MODEL under a schedule file, as `extend` would write it, or under a map file.",
)
@click.option("--original-length", help="Window before the stretch. Default: as the config says.")
@grid_option("shared")
@click.option(
    "--threshold",
    type=float,
    default=0.85,
    show_default=True,
    help="Share of the short score that a length must keep to count as usable.",
)
@click.option("--health", is_flag=True, help="Look inside: attention by layer and length, gradients, logits.")
@click.option(
    "--cache",
    metavar="KINDS",
    help="Kinds of caches beside the full one, with commas between: q8, q4, q2, sinks:4+2k, quanto4, ...",
)
@click.option(
    "--attention-temperature",
    "temperatures",
    metavar="NAMES",
    help="Attention temperatures beside the model's own: log-n, step-log, constant:1.1, entropy-matched, FILE.",
)
@click.option("--model", "served_model", metavar="NAME", help="URL: the name of the served model.")
@click.option(
    "--tokenizer", metavar="MODEL", help="Another tokenizer; for a URL, the one of the served model."
)
@click.option("--workers", type=int, default=4, show_default=True, help="URL: requests at the same time.")
@click.option(
    "--timeout", "timeout_s", type=float, default=300.0, show_default=True, help="URL: seconds a request."
)
@click.option("--max-answer-tokens", type=int, help="URL: room for an answer.")
@click.option("-o", "--output", metavar="RUN", help="Run folder; an unfinished one is completed.")
@seed_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:1, mps; all: layers spread over every device, for models too large for one.",
)
@running_options
@contract
def command(model: str, output: str | None, quiet: bool, as_json: bool, **settings: Any) -> None:
    """Loss by length, retrieval, controls and effective length of MODEL, or of a served model at a URL.

    MODEL is a folder, a Hub id, or hemp (the bundled model). Ctrl-C keeps finished cells; the same call with -o RUN
    completes them. `accelerate launch -m ropewalk eval ...` shares the work between processes.
    """
    from ropewalk.cli.eval_view import show
    from ropewalk.cli.progress import Bar
    from ropewalk.evaluation.evaluate import evaluate

    kept = None if output is None else f"finished cells are kept in {output}: the same line completes them"
    with keeping(kept), Bar(quiet=quiet) as bar:
        result = evaluate(model, output=output, on_step=bar.evaluated, **settings)
    if not bar.main:
        return
    if as_json:
        emit_json(result.to_json())
        return
    show(console(), result, quiet=quiet)
