"""`ropewalk methods [NAME]`: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ropewalk.cli.common import console, contract, emit_json

if TYPE_CHECKING:
    from ropewalk.methods import Method


@click.command("methods")
@click.argument("name", required=False)
@contract
def command(name: str | None, as_json: bool) -> None:
    """The scaling methods, or one of them in full: rule, parameters with types and defaults, paper, runtimes."""
    from ropewalk.methods import find_method, methods

    found = [find_method(name)] if name else list(methods().values())
    if as_json:
        emit_json({"methods": [method.to_json() for method in found], "temperatures": _temperatures()})
    elif name:
        _show_one(found[0])
    else:
        _show_all(found)


def _temperatures() -> list[dict[str, object]]:
    from ropewalk.temperature import RULES

    return [
        {
            "name": rule.name,
            "rule": rule.rule,
            "where": rule.where,
            "paper": rule.paper,
            "needs_training": rule.needs_training,
        }
        for rule in RULES.values()
    ]


def _marks(method: Method) -> str:
    marks = [
        text
        for held, text in ((method.contrib, "contrib"), (method.needs_training, "needs training"))
        if held
    ]
    return ", ".join(marks)


def _show_all(found: list[Method]) -> None:
    from ropewalk.cli.tables import Column, show_table
    from ropewalk.methods.registry import RUNTIMES

    columns = [
        Column("method"),
        Column("rule", below=4),
        Column("parameters", below=3),
        Column("paper", below=1),
        Column("natively in", below=2),
        Column(""),
    ]
    rows = [
        [
            method.name,
            method.rule,
            ", ".join(parameter.name for parameter in method.parameters) or "-",
            method.paper,
            "all" if len(method.native) == len(RUNTIMES) else ", ".join(method.native) or "carrier",
            _marks(method),
        ]
        for method in found
    ]
    screen = console()
    show_table(screen, columns, rows)
    screen.print(
        "\nAny method can also run as dynamic scaling, which follows the length in view (ropewalk.dynamic).\n"
        "Next: `ropewalk methods NAME` for one in full, `ropewalk plan MODEL --target 32k` to see them side by side."
    )


def _show_one(method: Method) -> None:
    from ropewalk.cli.tables import Column, show_table

    screen = console()
    screen.print(f"{method.name}   {_marks(method)}".rstrip(), style="bold")
    screen.print(method.doc, markup=False)
    screen.print(f"\npaper         {method.paper}", markup=False)
    screen.print(f"natively in   {', '.join(method.native) or 'none; the universal carrier holds it'}")
    if method.parameters:
        rows = [
            [
                parameter.name,
                f"{parameter.type} ({', '.join(parameter.choices)})" if parameter.choices else parameter.type,
                str(parameter.default),
            ]
            for parameter in method.parameters
        ]
        screen.print()
        show_table(screen, [Column("parameter"), Column("type", below=2), Column("default", below=1)], rows)
    first = method.parameters[0].name if method.parameters else None
    extra = f" -p {first}=..." if first else ""
    screen.print(
        f"\nNext: `ropewalk extend MODEL --target 32k --method {method.name}{extra} -o OUT`", markup=False
    )
