"""The recipes of the zoo: hemp's own, with the geometry of `geometries.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ropewalk.training.recipe.reading import find_recipe
from ropewalk.units import parse_length

TABLE = Path(__file__).parent / "geometries.yaml"


def read_table() -> dict[str, Any]:
    """The geometries as written."""
    table: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table


def zoo_names() -> list[str]:
    """The names of all models."""
    return list(read_table()["models"])


def zoo_recipe(name: str, scale: float = 1.0) -> dict[str, Any]:
    """The recipe of one model; `scale` multiplies its tokens."""
    table = read_table()
    shape = table["models"][name]
    recipe: dict[str, Any] = yaml.safe_load(find_recipe("hemp").read_text(encoding="utf-8"))
    recipe["name"] = name
    recipe["about"] = f"A small byte model of the zoo: {shape}"
    recipe["model"]["init"] = model_fields(shape, table["common"])
    recipe["tokens_per_step"] = table["tokens_per_step"]
    recipe["stages"] = _stages(recipe["stages"], shape["length"], table, scale)
    recipe["optimizer"]["learning_rate"] = 2.5e-3
    recipe["evaluation"] = {"every": 1000, "lengths": [shape["length"]], "tokens": "8k"}
    recipe["checkpoints"] = {"every": 100, "keep_last": 1}
    return recipe


def recipe_text(name: str, scale: float = 1.0) -> str:
    """The recipe of one model as YAML; written out, since a recipe takes no aliases."""
    plain = json.loads(json.dumps(zoo_recipe(name, scale)))
    return str(yaml.dump(plain, Dumper=_Plain, sort_keys=False))


class _Plain(yaml.SafeDumper):
    """A dumper that repeats values in the place of naming them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def model_fields(shape: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model's config.json."""
    rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
    fields = {**common, "model_type": shape["model_type"], "num_attention_heads": shape["heads"]}
    fields["max_position_embeddings"] = shape["length"]
    if shape["model_type"] == "gpt_neox":
        # Its heads fill the hidden size, and its fused projection has as many key heads as query heads.
        fields["rope_parameters"] = rope | {"partial_rotary_factor": shape["partial"]}
        hidden = shape["head_dim"] * shape["heads"]
        return fields | {"hidden_size": hidden, "intermediate_size": 4 * hidden}
    return fields | {
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "rms_norm_eps": 1.0e-5,
        "initializer_range": 0.02,
        "rope_parameters": rope,
    }


def _stages(
    stages: list[dict[str, Any]], length: int, table: dict[str, Any], scale: float
) -> list[dict[str, Any]]:
    """hemp's stages up to `length`, the mixed one again for each beyond 256, and a last one by the recipe's shares."""
    mixed = next(stage for stage in stages if stage["length"] == 256)
    kept = [stages[0]]
    for step, tokens in table["stage_tokens"].items():
        if step > length:
            continue
        base = next((stage for stage in stages[:-1] if stage["length"] == step), mixed)
        kept.append({**base, "length": step, "tokens": round(scale * parse_length(tokens))})
    if length < mixed["length"]:
        # The window is shorter than where everything is read first: it comes at the window then.
        tokens = round(scale * parse_length(table["stage_tokens"][mixed["length"]]))
        kept.append({**mixed, "length": length, "tokens": tokens})
    kept.append({"length": length, "tokens": round(scale * parse_length(table["last_tokens"][length]))})
    return kept
