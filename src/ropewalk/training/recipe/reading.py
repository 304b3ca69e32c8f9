"""Recipes from YAML: size and nesting are bounded, aliases are refused, and an error names its line and field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line
from ropewalk.files import as_path
from ropewalk.training.recipe.recipe import Recipe

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 20_000
# What other trainers call it.
ELSEWHERE = {
    "lr": "learning_rate",
    "warmup": "warmup_steps",
    "scheduler": "decay",
    "lr_scheduler": "decay",
    "eps": "epsilon",
    "max_grad_norm": "clip",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "seq_len": "length",
    "max_length": "length",
    "batch_size": "tokens_per_step",
    "gradient_checkpointing": "memory",
    "bf16": "precision",
    "r": "rank",
    "target_modules": "targets",
    "save_steps": "checkpoints",
    "eval_steps": "evaluation",
    "logging_steps": "log_every",
    "datasets": "sources",
}
# Without any of these a file was written for something else.
_CORE = ("model", "data", "stages")
# YAML 1.1 reads 010 as 8 and 4:16 as 256; nobody who writes a recipe means that.
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]*[0-9][0-9_]*|[0-9][0-9_]*(:[0-9.]+)+)")
BUNDLED = Path(__file__).parent / "bundled"


class _Loader(yaml.SafeLoader):
    """Plain YAML, whose numbers are those of JSON as well: YAML 1.1 takes 1e-5 for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_recipe(recipe: Recipe | dict[str, Any] | str | Path) -> Recipe:
    """A checked recipe from a dictionary, a YAML file, or the name of a bundled one."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, dict):
        return _checked(recipe, "recipe", {})
    path = find_recipe(recipe)
    document, lines = read_yaml(path)
    return _checked(document, str(path), lines)


def find_recipe(name: str | Path) -> Path:
    """The file of that path, or the bundled recipe of that name."""
    path = as_path(name, "recipe")
    if path.is_file():
        return path
    bundled = BUNDLED / f"{name}.yaml"
    if path.name == str(name) and bundled.is_file():
        return bundled
    if path.is_dir():
        raise UsageError(f"recipe {one_line(name, 120)} is a folder", hint="give the YAML file")
    raise UsageError(
        f"no recipe {one_line(name, 120)!r}: no such file, and no bundled recipe of that name",
        hint="`ropewalk recipes ls` lists the bundled ones",
    )


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """The document, and the line (from 1) of every field by its path."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RopewalkError(
            f"cannot read {path} ({one_line(error.strerror or error)})", hint="check it"
        ) from error
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"{path} has {len(content)} bytes; a recipe has at most {MAX_BYTES}", hint="give a recipe"
        )
    try:
        text = content.decode("utf-8")
        # Events come one by one: a document that is too deep or too long is refused before it becomes a tree.
        _check_events(text, path)
        node = yaml.compose(text, Loader=_Loader)
        document = yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="a recipe is a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{path}{line}: not YAML ({one_line(error.problem or error, 120)})", hint="mend it"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({one_line(error, 120)})", hint="mend it") from error
    if not isinstance(document, dict):
        found = "empty" if document is None else f"a {type(document).__name__}"
        raise UsageError(
            f"{path} is {found}, not a recipe", hint="`ropewalk recipes show hemp` prints a whole one"
        )
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        _index(node, (), lines)
    except UsageError as error:
        raise UsageError(f"{path} {error.message}", hint=error.hint) from error
    return document, lines


def _check_events(text: str, path: Path) -> None:
    depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        # A few lines of aliases of aliases can stand for billions of nodes.
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(
                f"{path} line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not allowed in a recipe",
                hint="write the value out",
            )
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise UsageError(f"{path} is nested or long beyond any recipe", hint="give a recipe")


def _index(node: Any, where: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    if node is None:
        return
    # The line of the key, which its mapping has set, wins over that of a value that begins further down.
    lines.setdefault(where, node.start_mark.line + 1)
    _check_number(node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            # PyYAML would take the last of them without a word.
            if name in seen:
                raise UsageError(
                    f"line {key.start_mark.line + 1}: {one_line(name, 60)} is given twice", hint="keep one"
                )
            seen.add(name)
            _check_number(key)
            lines[(*where, name)] = key.start_mark.line + 1
            _index(value, (*where, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _index(value, (*where, number), lines)


def _check_number(node: Any) -> None:
    """Refuse a number that YAML 1.1 reads as another one than people do."""
    is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    if is_number and _ODD_NUMBER.fullmatch(node.value):
        raise UsageError(
            f"line {node.start_mark.line + 1}: {one_line(node.value, 40)} would be read as "
            f"{yaml.safe_load(node.value)}",
            hint="write a number without zeros in front and without colons",
        )


def explain(error: ValidationError, lines: dict[tuple[str | int, ...], int]) -> list[dict[str, Any]]:
    """Every fault of a recipe: field, line (None without a file), message, and what was given."""
    faults = []
    for item in error.errors(include_url=False):
        # pydantic adds words of its own: where the key of a dictionary is at fault, and for the ways of a choice.
        where = tuple(part for part in item["loc"] if not isinstance(part, str) or not set(part) & set("[("))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "no such key" + _near(where)
        elif item["type"] == "missing":
            message = "missing"
        elif item["input"] is None and item["type"] != "invalid_key":
            message = "is empty: give it a value, or take the line out"
        elif item["type"] in ("model_type", "dict_type"):
            message = "a block of keys belongs here"
        elif item["type"] == "list_type":
            message = "a list belongs here"
        # What is missing has no line: that of the innermost block around it is given.
        line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), None)
        field = ".".join(str(part) for part in where) or "recipe"
        given = None if isinstance(item["input"], dict | list | None) else one_line(item["input"], 60)
        # Each way of a choice has something to say, and the first is the one that was meant more often.
        if any(fault["field"] == field for fault in faults):
            continue
        faults.append({"field": field, "line": line, "message": one_line(message, 240), "given": given})
    return faults


def _near(where: tuple[str | int, ...]) -> str:

    model: Any = Recipe
    for part in where[:-1]:
        if isinstance(part, int) or model is None:
            continue
        field = getattr(model, "model_fields", {}).get(part)
        model = _inner_model(field.annotation) if field is not None else None
    names = list(getattr(model, "model_fields", {}))
    if not names:
        return ""
    meant = ELSEWHERE.get(str(where[-1]))
    if meant in names:
        return f"; it is called {meant} here"
    blocks = [] if meant is None else list(_blocks_with(meant, Recipe, ""))
    if blocks:
        return f"; it is called {meant} here, in {blocks[0]}"
    otherwise = f"the keys here are {', '.join(names)}"
    return "; " + near_miss(where[-1], names, otherwise=otherwise, count=1, cutoff=0.6)


def _blocks_with(name: str, model: Any, here: str) -> Iterator[str]:
    """The blocks of a recipe, outermost first, that have a key of that name."""
    fields = model.model_fields
    if name in fields:
        yield here or "the recipe itself"
    for key, field in fields.items():
        inner = _inner_model(field.annotation)
        if inner is not None:
            yield from _blocks_with(name, inner, f"{here}.{key}" if here else key)


def _inner_model(annotation: Any) -> Any:
    import typing

    if hasattr(annotation, "model_fields"):
        return annotation
    for argument in typing.get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _checked(document: dict[str, Any], origin: str, lines: dict[tuple[str | int, ...], int]) -> Recipe:
    if document and not any(key in document for key in _CORE):
        raise UsageError(
            f"{origin} is no recipe of Ropewalk: it has none of {', '.join(_CORE)}",
            hint="`ropewalk recipes show hemp` prints a whole one",
        )
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise fault_error(explain(error, lines), origin) from error
    except RecursionError as error:
        raise UsageError(f"{origin} is nested beyond any recipe", hint="give a recipe") from error


def fault_error(faults: list[dict[str, Any]], origin: str) -> UsageError:
    """One line for the first fault, with a count of the rest."""
    first = faults[0]
    line = f" line {first['line']}" if first["line"] else ""
    given = f" (given: {first['given']})" if first["given"] is not None else ""
    rest = f"; {len(faults) - 1} more, `ropewalk recipes validate` lists them" if len(faults) > 1 else ""
    return UsageError(
        f"{origin}{line}: {first['field']}: {first['message']}{given}{rest}", hint="mend the recipe"
    )
