"""Attention temperatures by name, as candidates of a comparison, for a request, and for a checkpoint to hold.

    log-n               query at position p times max(1, ln(p + 1) / ln L)
    step-log[:PERIOD]   query at position p times 0.1 ln(floor((p + 1) / PERIOD) + 1) + 1; PERIOD is L by default
    constant[:VALUE]    what multiplies cos and sin: VALUE, or 0.1 ln s + 1
    entropy-matched     logits of head h times sqrt(1 + 2 ln s / sigma_h ** 2), sigma_h measured on the model's own text
                        (`per-head` names the same)
    FILE.json           logits of each head times what `ropewalk tune --temperatures heads` fitted

L is the original window, s the factor. The first two depend on the position: no weights can hold them. The numbers of a
file hold at its own factor; between it and 1 their logarithms go with ln s.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.head_temperatures import HeadTemperatures, read_temperatures
from ropewalk.attention.options import TemperatureOptions
from ropewalk.attention.temperature import (
    LEAST_TOKENS,
    AppliedTemperature,
    apply_temperature,
    measure_logit_std,
)
from ropewalk.errors import UsageError, near_miss, one_line
from ropewalk.models.live.rotary import bare
from ropewalk.units import parse_length

NAMES = ("log-n", "step-log", "constant", "entropy-matched")
_SAMPLE = 256
_WRITTEN = re.compile(r"([a-z-]+)(?::(.+))?")


@dataclass(frozen=True)
class Temper:
    """One temperature by its name and, where it has one, its value."""

    name: str
    value: float | None = None
    heads: HeadTemperatures | None = field(default=None, repr=False)

    @property
    def foldable(self) -> bool:
        """Whether weights can hold it."""
        return self.heads is not None or self.name in ("constant", "entropy-matched")

    def options(self, factor: float, original_length: int) -> TemperatureOptions:
        """What a recipe would say."""
        if self.name == "log-n":
            return TemperatureOptions(rule="log-n", original_length=original_length)
        if self.name == "step-log":
            return TemperatureOptions(rule="step-log", period=int(self.value or original_length))
        if self.name == "constant":
            given = {"factor": factor} if self.value is None else {"value": self.value}
            return TemperatureOptions.model_validate({"rule": "constant", **given})
        return TemperatureOptions(rule="per-head", factor=factor)

    def put_on(self, model: Any, factor: float, original_length: int) -> AppliedTemperature:
        """On a model until it is removed."""
        live = bare(model)
        options = self.options(factor, original_length)
        if self.heads is not None:
            logs = {layer: torch.from_numpy(item) for layer, item in self.heads.logs(factor).items()}
            return apply_temperature(live, options, logs=logs)
        spread = None
        if options.rule == "per-head":
            spread = measure_logit_std(live, own_text(live, original_length))
        return apply_temperature(live, options, logit_std=spread)

    @contextlib.contextmanager
    def applied(self, model: Any, factor: float, original_length: int) -> Iterator[None]:
        """Inside the block the model attends at this temperature."""
        with self.put_on(model, factor, original_length):
            yield


def is_temper(text: str) -> bool:
    """Whether a word names a temperature."""
    return _is_file(text) or text.strip().lower().partition(":")[0] in (*NAMES, "per-head")


def _is_file(text: str) -> bool:
    return text.strip().lower().endswith(".json")


def parse_temper(text: str) -> Temper:
    """A temperature by its name, or the file that holds one.

    >>> parse_temper("step-log:8k")
    Temper(name='step-log', value=8192.0)
    """
    if _is_file(text):
        return Temper(text.strip(), heads=read_temperatures(text.strip()))
    found = _WRITTEN.fullmatch(text.strip().lower())
    name, value = (found[1], found[2]) if found else (text, None)
    # Recipes call it by its rule.
    name = "entropy-matched" if name == "per-head" else name
    if name not in NAMES:
        raise UsageError(
            f"temperature {one_line(text, 40)!r} is unknown",
            hint=near_miss(name, NAMES, otherwise=f"use {', '.join(NAMES)}, or a file that tune wrote"),
        )
    if value is None:
        return Temper(name)
    if name == "step-log":
        return Temper(name, float(parse_length(value)))
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name != "constant" or not 0 < number < float("inf"):
        raise UsageError(
            f"temperature {one_line(text, 40)!r} has no such value", hint="use constant:1.1 or step-log:8k"
        )
    return Temper(name, number)


@torch.no_grad()
def own_text(model: Any, original_length: int, seed: int = 0) -> Tensor:
    """Up to 256 tokens that the model draws by itself, (1, T): text as it knows it, whatever its tokenizer."""
    embedding = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    start = getattr(model.config.get_text_config(), "bos_token_id", None)
    first = start if isinstance(start, int) and 0 <= start < embedding.shape[0] else 0
    row = torch.tensor([[first]], device=embedding.device)
    training, cache, tokens = model.training, None, [row]
    try:
        model.eval()
        for _ in range(max(LEAST_TOKENS, min(_SAMPLE, original_length)) - 1):
            output = model(input_ids=tokens[-1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            shares_V = output.logits[0, -1].float().softmax(-1).cpu()
            # On the CPU: a GPU's generator would draw another text from the same seed.
            drawn = torch.multinomial(shares_V, 1, generator=generator)
            tokens.append(drawn[None].to(embedding.device))
    finally:
        model.train(training)
    return torch.cat(tokens, dim=1)
