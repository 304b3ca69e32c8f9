"""`ropewalk methods [NAME]`: what there is to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ropewalk.cli.common import console, contract, emit_json
from ropewalk.errors import shown_command

if TYPE_CHECKING:
    from ropewalk.methods import Method


@click.command("methods")
@click.argument("name", required=False)
@contract
def command(name: str | None, as_json: bool) -> None:
    """The scaling methods, or one of them in full: rule, parameters with types and defaults, paper, runtimes."""
    from ropewalk.map_table import MAPS
    from ropewalk.methods import find_method, methods

    if name in MAPS and not as_json:
        shown = MAPS[str(name)]
        screen = console()
        screen.print(f"{shown.name}   {shown.kind}", style="bold")
        screen.print(shown.summary, markup=False)
        screen.print(f"\npaper         {shown.paper or '-'}", markup=False)
        screen.print(
            "written as    nothing: stock programs cannot carry it; it runs in generate, eval and compare"
        )
        for name, default in shown.parameters.items():
            screen.print(f"  -p {name}=   {default}", markup=False)
        return
    if name in MAPS:
        emit_json({"methods": [], "temperatures": [], "position_maps": [MAPS[str(name)].to_json()]})
        return
    found = [find_method(name)] if name else list(methods().values())
    if as_json:
        rows = [method.to_json() | _carried(method) for method in found]
        maps = [] if name else [item.to_json() for item in MAPS.values()]
        emit_json({"methods": rows, "temperatures": _temperatures(), "position_maps": maps})
    elif name:
        _show_one(found[0])
    else:
        _show_all(found)


def _carried(method: Method) -> dict[str, object]:
    """How a method is written, and where natively. No model is given: the answers are for a Llama, and say so."""
    from ropewalk.runtimes.general import REFERENCE, in_general, written_as

    found = in_general(method.name)
    return {
        "written_as": written_as(method.name),
        "native": {name: answer.native for name, answer in found.items()},
        "outcome": {name: answer.outcome for name, answer in found.items()},
        "native_on": REFERENCE["model_type"],
    }


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
    from ropewalk.map_table import MAPS
    from ropewalk.runtimes.general import in_general, written_as

    columns = [
        Column("method"),
        Column("rule", below=4),
        Column("parameters", below=3),
        Column("paper", below=1),
        Column("written as", below=2),
        Column("exact on a Llama in", below=2),
        Column(""),
    ]
    rows = [
        [
            method.name,
            method.rule,
            ", ".join(parameter.name for parameter in method.parameters) or "-",
            method.paper,
            written_as(method.name),
            ", ".join(name for name, answer in in_general(method.name).items() if answer.exact) or "-",
            _marks(method),
        ]
        for method in found
    ]
    screen = console()
    show_table(screen, columns, rows)
    screen.print(
        "\nPosition maps, at attention time (`ropewalk generate --method NAME`; no stock program carries them):"
    )
    for item in MAPS.values():
        screen.print(f"  {item.name:<14}{item.summary}", markup=False)
    screen.print(
        "\nWhere a method is exact depends on the architecture: `ropewalk plan MODEL --target 32k` asks for yours.\n"
        "Any method can also run as dynamic scaling, which follows the length in view (ropewalk.dynamic).\n"
        "Next: `ropewalk methods NAME` for one in full, `ropewalk plan MODEL --target 32k` to see them side by side."
    )


def _show_one(method: Method) -> None:
    from ropewalk.cli.tables import Column, show_table
    from ropewalk.runtimes.general import in_general, written_as

    screen = console()
    screen.print(f"{method.name}   {_marks(method)}".rstrip(), style="bold")
    screen.print(method.summary, markup=False)
    screen.print(f"\npaper         {method.paper}", markup=False)
    screen.print(f"written as    {written_as(method.name)}")
    screen.print("on a Llama    (other architectures: `ropewalk plan MODEL --target 32k`)", markup=False)
    for name, answer in in_general(method.name).items():
        screen.print(f"  {name:<16}{answer.describe()}", markup=False, soft_wrap=True)
    if method.parameters:
        rows = [
            [
                parameter.name,
                f"{parameter.type} ({', '.join(parameter.choices)})" if parameter.choices else parameter.type,
                str(parameter.default),
                parameter.about,
            ]
            for parameter in method.parameters
        ]
        columns = [
            Column("parameter"),
            Column("type", below=2),
            Column("default", below=1),
            Column("", below=3),
        ]
        screen.print()
        show_table(screen, columns, rows)
    # Lists and None are no values that a line of shell shows well.
    plain = (item for item in method.parameters if isinstance(item.default, int | float | str))
    given = [f"{item.name}={json.dumps(item.default).strip(chr(34))}" for item in plain][:1]
    line = shown_command("extend", "MODEL", target="32k", method=method.name, p=given, o="OUT")
    screen.print(f"\nNext: `{line}`", markup=False, soft_wrap=True)
