"""`ropewalk verify http://HOST/v1`: which schedule does the server run, and how much of a prompt does it read?"""

from __future__ import annotations

from typing import Any

import click

from ropewalk.cli.common import console, emit_json
from ropewalk.errors import UsageError

_SHOWN = 6
_STYLE = {"error": "bold red", "warning": "yellow", "info": "dim"}


def verify_served(
    url: str, as_json: bool, quiet: bool, output: str | None, served: dict[str, Any], options: dict[str, Any]
) -> None:
    """Ask, show, and leave with exit code 4 where users of the server would have to know what was found."""
    from ropewalk.runtimes.fingerprint import fingerprint
    from ropewalk.units import parse_lengths

    base = options.pop("base", None)
    if base is None:
        raise UsageError(
            "a server is compared with its base model on this machine, and none is named",
            hint="give it with --base MODEL, the model before it was stretched",
        )
    lengths = [] if served["lengths"] is None else parse_lengths(served["lengths"])
    asked = {"model": served["model"], "expect": served["expect"], "lengths": lengths, **options}
    if served["timeout_s"] is not None:
        asked["timeout_s"] = served["timeout_s"]
    if output is None:
        result = fingerprint(url, base, **asked)
    else:
        from ropewalk.runs import create_run

        with create_run("verify", {"server": url, "base": base, **asked}, path=output) as run:
            result = fingerprint(url, base, **asked)
            run.write_json("result.json", result.to_json())
    if as_json:
        emit_json(result.to_json())
    elif not quiet or not result.passed:
        _show(result)
    if not result.passed:
        raise click.exceptions.Exit(4)


def _show(result: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from ropewalk.units import format_length

    out = console()
    out.print(f"{result.model} at {result.server}, against {result.base}", markup=False)
    out.print(result.verdict, markup=False, style="bold")
    for one in result.identified:
        table = Table(
            box=None, pad_edge=False, title=f"{one.values} log probabilities of {one.tokens} tokens"
        )
        for title in ("schedule", "mean difference", "largest", "less likely by"):
            table.add_column(title, overflow="fold")
        for row in one.matches[:_SHOWN]:
            # As a power: the log probabilities of a few hundred tokens differ by factors that no other form can show.
            less = "" if row is one.best else f"e^{row.log_ratio:.0f}"
            table.add_row(row.candidate.name, f"{row.difference:.2g}", f"{row.largest:.2g}", less)
        out.print(table)
    read = "no length" if result.served_length is None else f"{format_length(result.served_length)} tokens"
    said = "" if result.claimed_length is None else f", claimed {format_length(result.claimed_length)}"
    out.print(f"read whole: {read}{said}; trained for {format_length(result.original_length)}", markup=False)
    for finding in result.findings:
        line = Text(f"{finding['severity']}: ", style=_STYLE[finding["severity"]])
        line.append(f"{finding['message']}. {finding['fix']}", style="default")
        out.print(line)
