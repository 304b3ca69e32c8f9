"""Models whose rotation depends on the length of the text: dynamic scaling, longrope with two sets.

In such a model the loss of a short text is not the beginning of a long text's loss. And a text that is read
in chunks through a cache would be rotated by several rules at once: `fixed_length` makes every chunk use the
rule of the whole length, which is what one forward of that length does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Regime:
    """How the rotation depends on length: `switch` (longrope) or `dynamic`, both past `length` tokens."""

    kind: str
    length: int

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Lengths that one forward of the longest of them can answer together."""
        short = [length for length in lengths if length <= self.length]
        long = [length for length in lengths if length > self.length]
        # Past a switch one set serves every length; dynamic scaling has another rule for each.
        beyond = [long] if self.kind == "switch" else [[length] for length in long]
        return [group for group in ([short] if short else []) + beyond if group]


def find_regime(model: Any) -> Regime | None:
    """The length rule of a loaded model, or None where the same rotation serves every length."""
    found: list[Regime] = []
    for module in _rotary_modules(model):
        for layer_type, rope_type in _rope_types(module).items():
            rule = _rule(module, layer_type, rope_type)
            if rule is not None:
                found.append(rule)
    # Dynamic rotates every length past its own differently, so that it rules out what a switch would allow.
    dynamic = [rule for rule in found if rule.kind == "dynamic"]
    return min(dynamic or found, key=lambda rule: rule.length, default=None)


def _rotary_modules(model: Any) -> list[Any]:
    return [
        module for module in model.modules() if hasattr(module, "rope_type") and hasattr(module, "config")
    ]


def _rope_types(module: Any) -> dict[str | None, str]:
    if isinstance(module.rope_type, dict):
        return dict(module.rope_type)
    return {None: str(module.rope_type)}


def _rule(module: Any, layer_type: str | None, rope_type: str) -> Regime | None:
    parameters = getattr(module.config, "rope_parameters", None) or {}
    if layer_type is not None:
        parameters = parameters.get(layer_type) or {}
    if "dynamic" in rope_type:
        return Regime("dynamic", int(module.original_max_seq_len))
    if rope_type != "longrope":
        return None
    same_factors = parameters.get("short_factor") == parameters.get("long_factor")
    # PhiMoE's two, which change with the length as the lists do.
    same_mscale = parameters.get("short_mscale") == parameters.get("long_mscale")
    if same_factors and same_mscale:
        return None
    return Regime("switch", int(parameters["original_max_position_embeddings"]))


@contextlib.contextmanager
def fixed_length(model: Any, length: int | None) -> Iterator[None]:
    """Inside the block the model rotates as in one forward over `length` tokens, in chunks too."""
    if length is None:
        yield
        return
    modules = [
        module
        for module in _rotary_modules(model)
        if any(_rule(module, layer, kind) is not None for layer, kind in _rope_types(module).items())
    ]
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            _pin(module, length)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


def _pin(module: Any, length: int) -> None:
    """Each call is made with one more position, the last of the whole text, whose rows are dropped again.

    That asks the module's own code for its own rule. Dynamic modules remember the longest text so far: a call
    with one token makes them forget.
    """
    own = module.forward

    def forward(x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        last = torch.full_like(position_ids[..., :1], length - 1)
        own(x, torch.zeros_like(last), *args, **kwargs)
        return _without_last(own(x, torch.cat([position_ids, last], dim=-1), *args, **kwargs))

    module.forward = forward


def _without_last(rotation: Any) -> Any:
    if isinstance(rotation, tuple):
        return tuple(_without_last(part) for part in rotation)
    return rotation[..., :-1, :]
