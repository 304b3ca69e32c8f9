"""`ropewalk compare MODEL --target 8x`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from ropewalk.cli.common import (
    attn_option,
    console,
    contract,
    device_option,
    dtype_option,
    emit_json,
    keeping,
    quiet_option,
    seed_option,
    trust_option,
)

if TYPE_CHECKING:
    from ropewalk.evaluation.compare.result import Row


@click.command()
@click.argument("model")
@click.option(
    "--target", default="8x", show_default=True, help="Target length: 32k, or 8x the original window."
)
@click.option(
    "--methods", default="all", show_default=True, help="Methods by name with commas between, or all."
)
@click.option(
    "--text", metavar="FILE|DIR|DATASET", help="Text to measure on; by default the held-out library."
)
@click.option(
    "--windows", type=int, default=6, show_default=True, help="Windows of the target length to read."
)
@click.option(
    "--tasks",
    default="needle",
    show_default=True,
    help="Retrieval tasks with commas between (needle, passkey, kv, ...), or none.",
)
@click.option("--depths", type=int, default=5, show_default=True, help="Depths at which values are hidden.")
@click.option(
    "--samples", type=int, default=4, show_default=True, help="Texts with hidden values, for each task."
)
@click.option("-o", "--output", metavar="RUN", help="Run folder; an unfinished one is completed.")
@seed_option
@device_option
@dtype_option
@attn_option
@trust_option
@quiet_option
@contract
def command(
    model: str,
    target: str,
    methods: str,
    text: str | None,
    windows: int,
    tasks: str,
    depths: int,
    samples: int,
    output: str | None,
    seed: int,
    device: str,
    dtype: str,
    attn: str,
    trust_remote_code: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure every method on MODEL, on text and retrieval, beside the unmodified and the cropped model.

    Each method runs with its defaults and, where that differs, at the factor that really reaches the target. Ctrl-C
    keeps what is finished; the same call with -o RUN completes it.
    """
    from ropewalk.cli.compare_view import Watch, show
    from ropewalk.evaluation.compare.comparison import compare

    kept = (
        None
        if output is None
        else f"methods that had ended are kept in {output}: the same line goes on there"
    )
    with keeping(kept), Watch(quiet=quiet) as watch:
        result = compare(
            model,
            target=target,
            methods=_names(methods),
            text=text,
            windows=windows,
            tasks=[] if tasks == "none" else _names(tasks),
            depths=depths,
            samples=samples,
            seed=seed,
            output=output,
            device=device,
            dtype=dtype,
            attn=attn,
            trust_remote_code=trust_remote_code,
            on_step=watch,
        )
    if as_json:
        emit_json(result.to_json())
        return
    screen = console()
    if sys.stdout.isatty():
        screen.print()
    show(screen, result)
    screen.print(f"\nRun: {result.run}", markup=False)
    best = result.verdict.text
    if best is not None:
        words = extend_words(model, result.row(best), result.target_length, "OUT")
        screen.print(f"Next: ropewalk {' '.join(words)}", markup=False)


def _names(written: str) -> list[str]:
    return [name.strip() for name in written.split(",") if name.strip()]


def extend_words(model: str, row: Row, target: int, output: str) -> list[str]:
    """The command line that writes a row's schedule into a checkpoint."""
    words = ["extend", model, "--method", row.method, "--target", str(target)]
    if row.variant == "reaching":
        words += ["--factor", f"{row.factor:.9g}"]
    if row.variant == "fitted betas":
        for name, value in row.parameters.items():
            words += ["-p", f"{name}={json.dumps(value)}"]
    return [*words, "-o", output]
