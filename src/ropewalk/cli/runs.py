"""`ropewalk runs ls | show | diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ropewalk.cli.common import console, contract, emit_json
from ropewalk.errors import shown_command

root_option = click.option(
    "--root", type=click.Path(file_okay=False), help="Folder of runs. Default: $ROPEWALK_RUNS, or ./runs."
)


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """The runs on this machine; alone, it lists them."""
    if context.invoked_subcommand is None:
        context.invoke(list_, kind=None, rebuild=False, root=None, as_json=False)


@command.command("ls")
@click.option("--kind", help="Only runs of this kind: eval, compare, train, verify, tune.")
@click.option("--rebuild", is_flag=True, help="Read every folder again, trusting no index.")
@root_option
@contract
def list_(kind: str | None, rebuild: bool, root: str | None, as_json: bool) -> None:
    """List runs, newest first; damaged and unfinished ones are named."""
    from ropewalk.errors import UsageError
    from ropewalk.runs import list_runs, runs_root
    from ropewalk.runs.index import rebuild as rebuild_index
    from ropewalk.runs.store import KINDS

    if kind is not None and kind not in KINDS:
        raise UsageError(f"no run kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
    if rebuild:
        rebuild_index(root)
    entries = list_runs(root, kind=kind)
    if as_json:
        emit_json({"root": str(runs_root(root)), "runs": [entry.to_json() for entry in entries]})
    elif not entries:
        click.echo(f"no runs in {runs_root(root)}: `ropewalk demo` makes some, `ropewalk compare MODEL` too")
    else:
        _print_list(entries)


def _print_list(entries: list[Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ropewalk.units import format_duration

    table = Table("run", "kind", "status", "started", "took", "about", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        took = "" if entry.seconds is None else format_duration(entry.seconds)
        about = escape(entry.problem or entry.subject)
        style = None if entry.status == "complete" else "yellow"
        table.add_row(escape(entry.id), entry.kind, entry.status, entry.created, took, about, style=style)
    console().print(table)


@command.command("show")
@click.argument("run")
@root_option
@contract
def show(run: str, root: str | None, as_json: bool) -> None:
    """Show one run: what was asked, what it ran on, its files, its headline; a training also while it runs."""
    from ropewalk.runs.index import find_run
    from ropewalk.runs.unfinished import look_at_run

    found = look_at_run(find_run(run, root))
    result = found.read_json() if found.has("result.json") else None
    if as_json:
        emit_json(
            {"id": found.id, "path": str(found.path), "manifest": dict(found.manifest), "result": result}
        )
        return
    _print_run(found, result)


def _print_run(found: Any, result: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ropewalk.units import format_bytes, format_duration

    manifest = found.manifest
    took = "took " + format_duration(manifest.get("seconds") or 0) if "ended" in manifest else "has not ended"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows = {
        "run": f"{found.id} ({found.kind}, {found.status})",
        "folder": str(found.path),
        "started": f"{manifest['created']}, {took}",
        "command": manifest.get("command") or "called from Python",
        "request": ", ".join(f"{key} {value}" for key, value in found.request.items()),
        "versions": ", ".join(
            f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()
        ),
        "files": ", ".join(f"{name} ({format_bytes(entry['bytes'])})" for name, entry in found.files.items()),
    }
    verdict = result.get("verdict") if isinstance(result, dict) else None
    if isinstance(verdict, dict) and verdict.get("summary"):
        rows["verdict"] = str(verdict["summary"])
    error = manifest.get("error")
    if isinstance(error, dict):
        rows["error"] = str(error.get("message"))
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    console().print(table)
    click.echo(f"`{shown_command('report', found.path)}` makes its page")


@command.command("diff")
@click.argument("first")
@click.argument("second")
@root_option
@contract
def diff_(first: str, second: str, root: str | None, as_json: bool) -> None:
    """What differs between two runs: request, versions, hardware, results."""
    from ropewalk.runs import open_run
    from ropewalk.runs.diff import diff
    from ropewalk.runs.index import find_run

    # Whole runs alone: what is not finished would differ in everything that is still to come.
    one, two = (open_run(find_run(Path(name), root)) for name in (first, second))
    found = diff(one, two)
    if as_json:
        emit_json({"first": one.id, "second": two.id, "differences": [item.to_json() for item in found]})
    elif not found:
        click.echo(f"{one.id} and {two.id} are the same in request, versions, hardware and result")
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table("where", escape(one.id), escape(two.id), "change", box=None, padding=(0, 2, 0, 0))
        for item in found:
            change = "" if item.change is None else f"{item.change:+.4g}"
            table.add_row(escape(item.part + item.path), _short(item.first), _short(item.second), change)
        console().print(table)


def _short(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return escape(text if len(text) <= 60 else text[:59] + "…")
