"""run.json: what a run is made of (its data by hash, its size), and whether a resumed one is still the same.

The recipe, the versions and the command stand in the run's request, as those of every run do.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.files import sha256_of
from ropewalk.runs.documents import read_document
from ropewalk.runs.store import REQUEST
from ropewalk.training.recipe.recipe import Recipe

FORMAT = "ropewalk-training/2"
# Runs of this format kept their recipe in run.json too, and that one counts: it was written when the run had begun.
WITH_RECIPE = "ropewalk-training/1"
BASE = "base weights"
# What may change between two parts of a run without changing what is computed.
COSMETIC = ("about", "follows", "name", "checkpoints", "log_every", "report_to", "engine")


def describe_run(recipe: Recipe, mixture: Any, model: Any) -> dict[str, Any]:
    """The document of run.json. Under LoRA the base is no part of a checkpoint: its weights are hashed."""
    from ropewalk.training.model.quantised import count_parameters

    base = {} if recipe.lora is None or recipe.model.path is None else base_hash(recipe.model.path)
    return {
        "format": FORMAT,
        "data": mixture.hashes() | base,
        "data_size": {item.name: item.size for item in mixture.sources},
        "parameters": count_parameters(model),
        "trainable_parameters": count_parameters(model, trained=True),
    }


def base_hash(source: str) -> dict[str, str]:
    """{"base weights": SHA-256 of a model's weight files, in the order of their names}."""
    from ropewalk.models.checkpoint.weights import find_weights
    from ropewalk.models.source import resolve

    folder = resolve(source, need_weights=True)
    digest = hashlib.sha256()
    for path in sorted(find_weights(folder).shards):
        # A Hub's cache names a file by its hash already.
        known = path.resolve().name
        hashed = known if re.fullmatch(r"[0-9a-f]{64}", known) else sha256_of(path)
        digest.update(f"{path.name} {hashed}\n".encode())
    return {BASE: digest.hexdigest()}


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run folder."""
    path = folder / "run.json"
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise RopewalkError(
            f"{folder} is no training run ({path.name}: {one_line(error.strerror or error)})",
            hint="give the folder of a run that `ropewalk train` made",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not JSON", hint="restore it from a copy") from error
    if not isinstance(document, dict) or document.get("format") not in (FORMAT, WITH_RECIPE):
        raise DamagedError(f"{path} is not of the format {FORMAT}", hint="restore it from a copy")
    return document


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe under which a run has begun; of one killed before that, the recipe that it was asked for."""
    if (folder / "run.json").is_file():
        described = read_run(folder)
        if described["format"] == WITH_RECIPE:
            return dict(described["recipe"])
    elif not (folder / REQUEST).is_file() or not (folder / REQUEST).stat().st_size:
        # Neither: the message of the file that a reader looks for.
        read_run(folder)
    document = read_document(folder / REQUEST)
    if not isinstance(document, dict) or document.get("kind") != "train":
        raise RopewalkError(
            f"{folder} is no training run", hint="give the folder of a run that `ropewalk train` made"
        )
    return dict(document["request"]["recipe"])


def check_same_run(folder: Path, recipe: Recipe, described: dict[str, Any], allow_changes: bool) -> list[str]:
    """What changed in recipe and data since the run began; any change is an error unless allowed."""
    changes = recipe_changes(recipe_of(folder), recipe.to_json())
    old, new = read_run(folder), described
    for name in sorted(set(old["data"]) | set(new["data"])):
        before, after = old["data"].get(name), new["data"].get(name)
        # Runs of before the base was hashed do not say which it was.
        if before != after and not (name == BASE and before is None):
            changes.append(f"data of {name}: {_short(before)} -> {_short(after)}")
    if not allow_changes:
        refuse_changes(changes)
    return changes


def refuse_changes(changes: list[str]) -> None:
    """An error that names the first of the changes, if there are any."""
    if changes:
        rest = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise RopewalkError(
            f"this is not the run that was started: {changes[0]}{rest}",
            hint="put it back, or pass --allow-changes to continue under the changed recipe or data",
        )


def recipe_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two resolved recipes that changes what is computed."""
    return differences(_computed(old), _computed(new), "")


def _computed(recipe: dict[str, Any]) -> dict[str, Any]:
    # A recipe written before a key existed has that key's default: only then is the comparison one of meanings.
    resolved = Recipe.model_validate(recipe).to_json()
    return {key: value for key, value in resolved.items() if key not in COSMETIC}


def differences(old: Any, new: Any, where: str) -> list[str]:
    """Every leaf that differs, as `stages.0.steps: 10 -> 20`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(str(key), old.get(key), new.get(key)) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), a, b) for number, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [f"{where or 'recipe'}: {one_line(old, 40)} -> {one_line(new, 40)}"]
    found = []
    for key, before, after in pairs:
        found += differences(before, after, f"{where}.{key}" if where else key)
    return found


def _short(value: str | None) -> str:
    return "absent" if value is None else value[:12]
