"""Initialisation by length, for training from scratch: attention that starts alive at the length it will be trained at.

Over n keys random attention is nearly uniform: its output has variance 1/n of the values', and its entropy is ln n
less half the variance of the logits. Both drift with the length T; here the spread of the logits, and the gain of the
output projection, make up for it. sigma_a is the standard deviation of the logits under unit-RMS inputs, T0 the length
at which the model's own initialisation is taken to be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ropewalk.attention.folding import fold_into
from ropewalk.attention.interface import attention_modules
from ropewalk.attention.temperature import (
    LEAST_TOKENS,
    chosen_layers,
    measure_logit_std,
    num_query_heads,
)
from ropewalk.errors import UsageError

Rule = Literal["critical", "variance", "entropy"]
MARK = "_ropewalk_initialised_length"
MAX_GAIN = 8.0
_PROBE_TOKENS = 512


@dataclass(frozen=True)
class LayerChange:
    """What was done to one attention layer; `gain` multiplies the output projection."""

    layer: int
    logit_std_before: float
    logit_std_after: float
    value_cosine: float
    gain: float


@dataclass(frozen=True)
class Initialised:
    """The result of `initialise`: the lengths and every layer's change."""

    length: int
    reference_length: int
    qk: Rule
    layers: tuple[LayerChange, ...]


def initialise(
    model: Any,
    length: int,
    *,
    qk: Rule = "critical",
    reference_length: int = 512,
    output_gain: bool = True,
    input_ids: Tensor | None = None,
    seed: int = 0,
) -> Initialised:
    """Rescale a new model's attention, in place, for training from scratch at `length` tokens.

    The queries of each full-attention layer are multiplied by sigma_a(T) / sigma_a(T0) (see `logit_std_for`), the
    output projection by g(T) / g(T0) (see `gain_for`, at most 8 either way) with the mean cosine of value vectors
    measured on `input_ids` (by default random tokens, 16 at least). A model that was loaded from a checkpoint, or has
    been trained, or initialised so before, is refused: rescaling it would destroy what it learnt.
    """
    if qk not in get_args(Rule):
        raise UsageError(f"qk={qk!r} is no rule", hint=f"use {', '.join(get_args(Rule))}")
    if min(length, reference_length) < 2:
        raise UsageError(
            f"length={length}, reference_length={reference_length}", hint="both are 2 tokens or more"
        )
    _refuse_trained(model)
    generator = torch.Generator().manual_seed(seed)
    if input_ids is None:
        vocabulary = model.get_input_embeddings().weight.shape[0]
        input_ids = torch.randint(
            0, vocabulary, (1, max(LEAST_TOKENS, min(reference_length, _PROBE_TOKENS))), generator=generator
        )
    input_ids = input_ids.to(model.get_input_embeddings().weight.device)
    modules = attention_modules(model)
    with _unit_inputs(modules, generator):
        spread = measure_logit_std(model, input_ids)
    cosines = _value_cosines(model, modules, input_ids)
    changes = []
    for index in chosen_layers(model, "full"):
        before = float(spread[index].mean())
        after = logit_std_for(length, qk, sigma_0=before, reference_length=reference_length)
        fold_into(
            modules[index],
            torch.full((num_query_heads(modules[index]),), after / before, dtype=torch.float64),
        )
        gain = 1.0
        if output_gain:
            gain = gain_for(length, after, cosines[index]) / gain_for(
                reference_length, before, cosines[index]
            )
            gain = min(max(gain, 1 / MAX_GAIN), MAX_GAIN)
            _scale_output(modules[index], gain)
        changes.append(LayerChange(index, before, after, cosines[index], gain))
    setattr(model, MARK, length)
    return Initialised(length, reference_length, qk, tuple(changes))


def logit_std_for(length: int, qk: Rule, *, sigma_0: float, reference_length: int = 512) -> float:
    """sigma_a(T), the spread of the logits at length T, from sigma_0 = sigma_a(T0).

    - `critical`: sigma_0 * sqrt(ln T / ln T0), which keeps b in sigma_a = b * sqrt(ln T) (arXiv 2505.24333).
    - `variance`: sqrt(sigma_0**2 + ln(T / T0)), which keeps sum(A**2) = exp(sigma**2) / T.
    - `entropy`: sqrt(sigma_0**2 + 2 ln(T / T0)), which keeps the entropy ln T - sigma**2 / 2.

    All stay below the critical value sqrt(2 ln T), where attention collapses onto single keys; the last two never fall
    below 0.05, or below sigma_0 where that is smaller.

    >>> round(logit_std_for(512**2, "critical", sigma_0=1.0), 4), logit_std_for(512, "entropy", sigma_0=1.0)
    (1.4142, 1.0)
    """
    critical = math.sqrt(2 * math.log(length))
    if sigma_0 >= math.sqrt(2 * math.log(reference_length)):
        raise UsageError(
            f"the model's logits spread by {sigma_0:.3g} at {reference_length} tokens, beyond the critical "
            f"sqrt(2 ln T0) = {math.sqrt(2 * math.log(reference_length)):.3g}: attention starts collapsed",
            hint="lower initializer_range, or give a longer reference_length",
        )
    growth = math.log(length / reference_length)
    if qk == "critical":
        return sigma_0 * math.sqrt(math.log(length) / math.log(reference_length))
    squared = sigma_0**2 + (growth if qk == "variance" else 2 * growth)
    return min(math.sqrt(max(squared, min(sigma_0, 0.05) ** 2)), critical)


def gain_for(length: int, sigma: float, cosine: float) -> float:
    """(rho + (1 - rho) * min(1, exp(sigma**2) * H_T / T)) ** -0.5: one over the spread of an attention output.

    H_T is the harmonic number: the mean over positions of 1/n. rho is the mean cosine of value vectors; values that
    agree do not average out.

    >>> gain_for(1, 0.0, 0.0), gain_for(4096, 1.0, 1.0)
    (1.0, 1.0)
    """
    harmonic = (
        # Euler's constant: the expansion is right to 1 / (12 T**2), without a sum of a million terms.
        math.log(length) + 0.5772156649015329 + 1 / (2 * length)
        if length > 20
        else sum(1 / n for n in range(1, length + 1))
    )
    kept = min(1.0, math.exp(sigma**2) * harmonic / length)
    # A measured mean can fall just below 0, or round above 1.
    rho = min(max(cosine, 0.0), 1.0)
    return float((rho + (1 - rho) * kept) ** -0.5)


def _refuse_trained(model: Any) -> None:
    path = getattr(model.config, "_name_or_path", "") or getattr(model, "name_or_path", "")
    if path:
        raise UsageError(
            f"the model was loaded from {path}: initialisation is for training from scratch",
            hint="make a new model from its config, or extend this one with a schedule",
        )
    if getattr(model, MARK, None) is not None:
        raise UsageError(
            f"the model is already initialised for {getattr(model, MARK)} tokens", hint="make a new one first"
        )
    for name, module in model.named_modules():
        if not type(module).__name__.endswith("Norm"):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.numel() > 1 and bool((parameter != parameter.flatten()[0]).any()):
                raise UsageError(
                    f"{name} has a gain that differs between its elements: this model has been trained",
                    hint="initialisation is for training from scratch: make a new model from the config",
                )


@contextmanager
def _unit_inputs(modules: dict[int, nn.Module], generator: torch.Generator) -> Iterator[None]:
    """Every attention module sees independent normal inputs of unit RMS in place of its own."""

    def replace(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        own = args[0] if args else kwargs["hidden_states"]
        # Drawn on the CPU: a seed gives the same inputs on every device.
        noise = torch.randn(own.shape, generator=generator, dtype=torch.float32).to(own.device, own.dtype)
        return ((noise, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": noise})

    handles = [item.register_forward_pre_hook(replace, with_kwargs=True) for item in modules.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _value_cosines(model: Any, modules: dict[int, nn.Module], input_ids: Tensor) -> dict[int, float]:
    """The mean cosine between value vectors of different tokens, by layer; of the inputs where values are fused."""
    found: dict[int, float] = {}

    def watch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        projection = getattr(module, "v_proj", None)
        values = projection(hidden) if isinstance(projection, nn.Module) else hidden
        unit = nn.functional.normalize(values[0].double(), dim=-1)
        count = unit.shape[0]
        # The square of the sum of n unit vectors is n and the cosines of all pairs: no n * n array is needed.
        found[int(module.layer_idx)] = float((unit.sum(0).square().sum() - count) / (count * (count - 1)))

    handles = [item.register_forward_pre_hook(watch, with_kwargs=True) for item in modules.values()]
    training = model.training
    try:
        model.eval()
        model(input_ids=input_ids[:1], use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _scale_output(module: Any, gain: float) -> None:
    for name in ("o_proj", "dense", "out_proj", "wo"):
        layer = getattr(module, name, None)
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(gain)
            return
    raise UsageError(
        f"{type(module).__name__} has no output projection that could take a gain",
        hint="set output_gain to false",
    )
