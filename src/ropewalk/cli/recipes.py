"""`ropewalk recipes ls|show|validate`."""

from __future__ import annotations

import click

from ropewalk.cli.common import console, contract, emit_json
from ropewalk.units import format_length


@click.group()
def command() -> None:
    """The bundled training recipes, and a check of your own."""


@command.command("ls")
@contract
def list_command(as_json: bool) -> None:
    """List the bundled recipes."""
    from ropewalk.training.recipe.presets import list_recipes

    rows = list_recipes()
    if as_json:
        emit_json({"recipes": rows})
        return
    from rich.table import Table

    table = Table("recipe", "lengths", "method", "what it does", "follows")
    for row in rows:
        lengths = " ".join(format_length(length) for length in row["lengths"])
        table.add_row(row["name"], lengths, row["method"] or "-", row["about"], row["follows"])
    console().print(table)


@command.command("show")
@click.argument("recipe")
@contract
def show_command(recipe: str, as_json: bool) -> None:
    """Print a recipe: its text, or with --json the resolved recipe with every default written out."""
    from ropewalk.training.recipe.presets import show_recipe
    from ropewalk.training.recipe.reading import find_recipe, read_recipe

    if as_json:
        emit_json({"path": str(find_recipe(recipe)), "recipe": read_recipe(recipe).to_json()})
        return
    click.echo(show_recipe(recipe), nl=False)


@command.command("validate")
@click.argument("recipes", nargs=-1, required=True)
@contract
def validate_command(recipes: tuple[str, ...], as_json: bool) -> None:
    """Check recipes and explain every fault with its line and field; exit code 2 when one is wrong."""
    from ropewalk.training.recipe.presets import validate_recipe

    results = [validate_recipe(recipe) for recipe in recipes]
    valid = all(result["valid"] for result in results)
    if as_json:
        emit_json({"valid": valid, "recipes": results})
    else:
        for result in results:
            if result["valid"]:
                click.echo(f"{result['path']}: valid")
            faults = result["faults"]
            assert isinstance(faults, list)
            for fault in faults:
                line = f":{fault['line']}" if fault["line"] else ""
                given = "" if fault["given"] is None else f" (given: {fault['given']})"
                click.echo(f"{result['path']}{line}: {fault['field']}: {fault['message']}{given}")
    if not valid:
        raise click.exceptions.Exit(2)
