"""Tiny randomly initialised models of every causal architecture that the installed transformers can build."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 100


@lru_cache(maxsize=1)
def recipes() -> dict[str, Any]:
    """The recipe file beside this module."""
    return json.loads((Path(__file__).parent / "tiny_recipes.json").read_text(encoding="utf-8"))


def causal_types() -> list[str]:
    """Every model type with a causal language model in the installed transformers."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A small config of that type; `changes` go on top of the recipe."""
    override = dict(recipes()["overrides"].get(model_type, {})) | changes
    return _build(CONFIG_MAPPING[model_type], override)


def tiny_model(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model in float32 and evaluation mode whose attention is sharp enough for positions to matter."""
    config = tiny_config(model_type, **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    sharpen(model, everything=bool(recipes()["overrides"].get(model_type, {}).get("__allrand__")))
    return model


def sharpen(model: Any, *, everything: bool = False) -> None:
    """Larger random weights (norms kept): at initialisation attention is flat and no position would show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # A frozen parameter is a table that code built, not a weight.
            if parameter.is_meta or not parameter.requires_grad:
                continue
            if parameter.dim() >= 2 and parameter.is_floating_point():
                width = parameter.shape[-1]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / width**0.5))
            elif everything and parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.5)


def tokens(count: int, *, seed: int = 0, rows: int = 1) -> torch.Tensor:
    """Random token ids below every recipe's special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, count), generator=generator)


def logits_of(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits of one forward without a cache."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **inputs).logits


def _build(family: Any, override: Mapping[str, Any], inherited: Mapping[str, Any] | None = None) -> Any:
    """A config of `family`; plain overrides of a composite go down to its parts, which take the fields they have."""
    fields = {field.name for field in dataclasses.fields(family)}
    parts = getattr(family, "sub_configs", {})
    own = {name: value for name, value in override.items() if name not in parts and not name.startswith("__")}
    passed = {
        name: value
        for name, value in (inherited or {}).items()
        if name in fields or "text" in family.model_type
    }
    if parts:
        own_here = {name: value for name, value in own.items() if name in fields}
        values = _generic(family) | own_here
    else:
        values = _generic(family) | passed | own
    for name in parts:
        sub_family = _sub_family(family, name)
        if sub_family is not None:
            values[name] = _build(sub_family, override.get(name, {}), own)
    return family(**values)


def _sub_family(family: Any, name: str) -> Any:
    """The class of a sub-config; where the parent leaves it open (AutoConfig), the one its default has."""
    declared = family.sub_configs[name]
    if isinstance(declared, type) and issubclass(declared, PreTrainedConfig):
        return declared
    default = getattr(family(), name, None)
    return type(default) if isinstance(default, PreTrainedConfig) else None


def _generic(family: Any) -> dict[str, Any]:
    recipe = recipes()
    defaults = {field.name: field for field in dataclasses.fields(family)}
    found: dict[str, Any] = {}
    for name, value in (recipe["generic"] | recipe["token_ids"]).items():
        if name not in defaults:
            continue
        unset = defaults[name].default is None
        if not (unset and name in recipe["only_if_set"]):
            found[name] = value
    if "kv_lora_rank" in defaults and "num_key_value_heads" in defaults:
        found["num_key_value_heads"] = 4
    return found
