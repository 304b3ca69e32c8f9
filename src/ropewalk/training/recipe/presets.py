"""The bundled recipes: what each follows, and a check of any recipe file that explains every fault. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ropewalk.training.recipe.model import RopePart
from ropewalk.training.recipe.reading import BUNDLED, explain, find_recipe, read_yaml
from ropewalk.training.recipe.recipe import Recipe


def list_recipes() -> list[dict[str, Any]]:
    """Name, purpose, source and lengths of every bundled recipe, by name."""
    rows = []
    for path in sorted(BUNDLED.glob("*.yaml")):
        recipe = Recipe.model_validate(read_yaml(path)[0])
        ropes = [stage.rope or recipe.rope for stage in recipe.stages]
        methods = dict.fromkeys(part.method or f"{part.schedule}" for part in ropes if part is not None)
        rows.append(
            {
                "name": path.stem,
                "about": recipe.about,
                "follows": recipe.follows,
                "lengths": [stage.length for stage in recipe.stages],
                "method": ", ".join(methods) or None,
                "path": str(path),
            }
        )
    return rows


def show_recipe(name: str | Path) -> str:
    """The text of a recipe."""
    return find_recipe(name).read_text(encoding="utf-8")


def validate_recipe(name: str | Path) -> dict[str, Any]:
    """Whether a recipe is right: {"path", "valid", "faults": [{field, line, message, given}], "recipe"}.

    Beyond the form, a RoPE method and its parameters must exist; models, tokenizers and data files are not looked for.
    """
    path = find_recipe(name)
    document, lines = read_yaml(path)
    found: dict[str, Any] = {"path": str(path), "valid": False, "faults": [], "recipe": None}
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        return found | {"faults": explain(error, lines)}
    faults = _method_faults(recipe, lines)
    return found | {"valid": not faults, "faults": faults, "recipe": recipe.to_json()}


def _method_faults(recipe: Recipe, lines: dict[tuple[str | int, ...], int]) -> list[dict[str, Any]]:
    from ropewalk.errors import UsageError
    from ropewalk.methods.registry import find_method

    ropes: list[tuple[tuple[str | int, ...], RopePart | None]] = [(("rope",), recipe.rope)]
    ropes += [(("stages", number, "rope"), stage.rope) for number, stage in enumerate(recipe.stages)]
    faults = []
    for where, part in ropes:
        if part is None or part.method is None:
            continue
        field = "method"
        try:
            method = find_method(part.method)
            field = "parameters"
            method.checked(part.parameters)
        except UsageError as error:
            faults.append(
                {
                    "field": ".".join(map(str, (*where, field))),
                    "line": lines.get((*where, field)),
                    "message": str(error),
                    "given": part.method if field == "method" else None,
                }
            )
    return faults
