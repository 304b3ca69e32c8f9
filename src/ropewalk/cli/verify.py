"""`ropewalk verify`: is the scaling active, and the same in stock software?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from ropewalk.cli.common import console, contract, device_option, emit_json, running_options
from ropewalk.errors import UsageError
from ropewalk.units import split_names

_STYLE = {"pass": "green", "fail": "bold red", "skip": "yellow"}


@click.command()
@click.argument("checkpoint")
@click.option(
    "--base", metavar="MODEL", help="The model it was extended from; default: what its manifest names."
)
@click.option(
    "-o", "--output", metavar="RUN", help="Keep the outcome as a run folder, for `ropewalk report`."
)
@click.option(
    "--allow-unproven", is_flag=True, help="Exit 0 also where nothing failed but the model could not be run."
)
@click.option(
    "--runtime",
    "programs",
    metavar="NAMES",
    help="Instead: run it in these programs (llama.cpp, mlx, vllm) beside stock transformers, token by token.",
)
@click.option(
    "--model", metavar="NAME", help="With an address: the model's name there, where it has several."
)
@click.option("--expect", metavar="OUT", help="With an address: the checkpoint that it should serve.")
@click.option("--lengths", help="With an address: prompt lengths to try, 4k..32k or 4k,8k.")
@click.option("--timeout", "timeout_s", type=float, help="With an address: seconds a request. Default 300.")
@device_option
@running_options
@contract
def command(
    as_json: bool,
    quiet: bool,
    checkpoint: str,
    output: str | None,
    allow_unproven: bool,
    programs: str | None,
    **options: Any,
) -> None:
    """Check an extended CHECKPOINT: active, bit-equal in stock transformers, identical where nothing should change,
    both dialects alike, weights the base's. Exit code 4 when a check fails, or could not be run at all.

    CHECKPOINT may be the address of a server (http://HOST/v1): then a few hundred log probabilities, compared with
    --base on this machine, name the schedule that it runs, and growing prompts the window that it reads."""
    served = {name: options.pop(name) for name in ("model", "expect", "lengths", "timeout_s")}
    if checkpoint.startswith(("http://", "https://")):
        from ropewalk.cli.verify_served import verify_served

        verify_served(checkpoint, as_json, quiet, output, served, options)
        return
    if any(value is not None for value in served.values()):
        raise UsageError(
            "--model, --expect, --lengths and --timeout are for servers, and this is a folder",
            hint="give an address (http://HOST/v1), or leave them out",
        )
    if programs is not None:
        dtype = "float32" if options["dtype"] == "auto" else options["dtype"]
        _in_programs(checkpoint, programs, dtype, output, as_json, allow_unproven)
        return
    result = _verified(checkpoint, output, options)
    if as_json:
        emit_json(result.to_json())
    elif not quiet or not result.passed:
        _show(result)
    if result.unproven and result.passed:
        way = "" if allow_unproven else " (--allow-unproven lets that pass)"
        click.echo(f"ropewalk: not shown: {', '.join(result.unproven)}{way}", err=True)
    if not result.passed or (result.unproven and not allow_unproven):
        raise click.exceptions.Exit(4)


def _in_programs(
    checkpoint: str, programs: str, dtype: str, output: str | None, as_json: bool, allow_unproven: bool
) -> None:
    """The checks of `--runtime`; a program that could not be run leaves the question open, like any skipped check."""
    from rich.text import Text

    from ropewalk.runtimes.proof import verify_runtimes

    names = split_names(programs)
    asked = {"model": checkpoint, "runtimes": names, "dtype": dtype}
    with _kept(output, asked) as keep:
        checks = verify_runtimes(checkpoint, names, dtype)
        document = {"checkpoint": checkpoint, "checks": [check.to_json() for check in checks]}
        keep(document)
    if as_json:
        emit_json(document)
    else:
        out = console()
        for check in checks:
            line = Text(f"{check.runtime:<12}")
            line.append(check.status, style=_STYLE[check.status])
            line.append(f"  {check.detail}")
            out.print(line, soft_wrap=True)
    open_questions = any(check.status == "skip" for check in checks) and not allow_unproven
    if open_questions or any(check.status == "fail" for check in checks):
        raise click.exceptions.Exit(4)


@contextlib.contextmanager
def _kept(output: str | None, asked: dict[str, Any]) -> Iterator[Callable[[Any], object]]:
    """What keeps the document of a verification in the run folder that -o names; nothing where none is named."""
    if output is None:
        yield lambda document: None
        return
    from ropewalk.runs import create_run

    with create_run("verify", asked, path=output) as run:
        yield lambda document: run.write_json("result.json", document)


def _verified(checkpoint: str, output: str | None, options: dict[str, Any]) -> Any:
    from ropewalk.models.verify import verify

    with _kept(output, {"model": checkpoint, **options}) as keep:
        result = verify(checkpoint, **options)
        keep(result.to_json())
    return result


def _show(result: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("check", "", "detail"):
        table.add_column(title, overflow="fold")
    for check in result.checks:
        table.add_row(check.name, Text(check.status, style=_STYLE[check.status]), Text(check.detail))
    out = console()
    out.print(f"{result.folder} against {result.base}", markup=False)
    out.print(table)
    out.print(f"ran {result.used}", markup=False)
    if result.changed:
        out.print(f"changed since it was written: {', '.join(result.changed)}", markup=False)
    for error in result.angle_errors:
        out.print(f"angle error at {error}", markup=False)
