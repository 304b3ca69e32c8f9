"""`ropewalk.plan`: from a configuration to options, memory, cost and a recommendation, without loading anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.analysis import base_bound
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.sizes import parameters_of
from ropewalk.models.stretch import kept_parameters
from ropewalk.planning import (
    Advice,
    FineTuneCost,
    InferenceMemory,
    ModelShape,
    Option,
    Setup,
    advise,
    choose_setup,
    fine_tune_cost,
    inference_memory,
    options_for,
)
from ropewalk.runtimes import Answer, answers, job_for
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length, parse_bytes, parse_target


@dataclass(frozen=True)
class Plan:
    """Everything `ropewalk plan` prints."""

    source: str
    facts: ModelFacts
    shape: ModelShape
    target_length: int
    options: list[Option]
    advice: Advice
    inference: InferenceMemory
    setups: dict[str, Setup]
    setup: Setup
    costs: list[FineTuneCost]
    memory_bytes: int | None
    gpus: int
    base_bound: float

    @property
    def factor(self) -> float:
        """Target over original length."""
        return self.target_length / self.facts.original_length

    def fits(self, needed: int) -> bool | None:
        """Whether a number of bytes fits one device; None where no memory was given."""
        return None if self.memory_bytes is None else needed <= self.memory_bytes

    @property
    def launch(self) -> str:
        """The line that starts the fine-tune on this many devices."""
        recipe = "recipe.yaml"
        if self.gpus == 1:
            return f"ropewalk train {recipe}"
        return f"accelerate launch --num_processes {self.gpus} -m ropewalk train {recipe}"

    def longest_inference(self) -> int | None:
        """The longest power-of-two context whose prefill and cache fit, or None where no memory was given."""
        if self.memory_bytes is None:
            return None
        fitting = [
            length
            for power in range(7, 25)
            if inference_memory(self.shape, length := 1 << power).total() <= self.memory_bytes
        ]
        return max(fitting, default=0)

    def to_json(self) -> dict[str, Any]:
        """The `plan --json` document."""
        bound = self.base_bound if math.isfinite(self.base_bound) else None
        return {
            "model": self.source,
            "original_length": self.facts.original_length,
            "target_length": self.target_length,
            "factor": self.factor,
            "base_bound": bound,
            "options": [option.to_json() for option in self.options],
            "memory": {
                "device_bytes": self.memory_bytes,
                "devices": self.gpus,
                "parameters": self.shape.num_parameters,
                "parameters_exact": self.shape.parameters is not None,
                "inference": self.inference.to_json() | {"fits": self.fits(self.inference.total())},
                "longest_inference": self.longest_inference(),
                "training": [
                    {"name": name, "fits": self.fits(setup.memory.total)} | setup.memory.to_json()
                    for name, setup in self.setups.items()
                ],
                "chosen": self.setup.name,
                "sharing": self.setup.sharing,
            },
            "cost": [cost.to_json() for cost in self.costs],
            "recommendation": self.advice.to_json(),
            "recipe": self.recipe(),
            "launch": self.launch,
        }

    def recipe(self) -> dict[str, Any]:
        """A fine-tuning recipe to begin with: a doubling curriculum to the target, short samples mixed in."""
        target, original = self.target_length, self.facts.original_length
        lengths = [original * 2**step for step in range(1, 32) if original * 2**step < target] + [target]
        steps = max(1, 400 // len(lengths))
        recipe: dict[str, Any] = {
            "format": "ropewalk-recipe/1",
            "name": f"extend-{format_length(target)}",
            "about": f"{original} to {target} tokens with {self.advice.label}; 400 steps, as YaRN's paper.",
            "model": {"path": self.source} | ({"dtype": "bfloat16"} if self.setup.lora else {}),
            "rope": {
                "method": self.advice.method,
                "factor": self.advice.factor,
                "parameters": self.advice.parameters,
                "follow": "final",
            },
            "data": {"sources": [{"name": "text", "kind": "corpus"}]},
            "stages": [{"length": length, "steps": steps, "mix": {original: 0.25}} for length in lengths],
            "tokens_per_step": max(1 << 18, target),
            "micro_batch_tokens": target,
        }
        return recipe | self.setup.recipe()


def plan(
    source: str | Path | Mapping[str, Any],
    target: str | int,
    *,
    memory: str | int | None = None,
    gpus: int = 1,
    dtype: str = "bfloat16",
) -> Plan:
    """The options, memory and cost of taking a model to `target` (tokens, `32k` or `8x`).

    `memory` is that of one device (`24GB`), `gpus` how many train together. Reads config.json and, where
    weights lie beside it, the sizes in their headers.
    """
    facts = read_facts(source)
    target_length = parse_target(target, facts.original_length)
    shape = shape_of(facts, None if isinstance(source, Mapping) else parameters_of(source))

    def ask(made: FrequencySchedule) -> Mapping[str, Answer]:
        return answers(job_for(facts, made, target_length=target_length))

    options = options_for(facts.geometry, target_length, kept=kept_parameters(facts), ask=ask)
    memory_bytes = None if memory is None else parse_bytes(memory)
    made, setup = choose_setup(shape, target_length, dtype=dtype, devices=gpus, memory_bytes=memory_bytes)
    return Plan(
        source=str(source) if not isinstance(source, Mapping) else "config",
        facts=facts,
        shape=shape,
        target_length=target_length,
        options=options,
        advice=advise(facts.geometry, target_length, options),
        inference=inference_memory(shape, target_length, dtype=dtype),
        setups=made,
        setup=setup,
        costs=fine_tune_cost(shape, target_length),
        memory_bytes=memory_bytes,
        gpus=gpus,
        base_bound=base_bound(facts.geometry.rotary_dim, target_length),
    )


def shape_of(facts: ModelFacts, parameters: int | None = None) -> ModelShape:
    """The sizes that memory depends on, from what config.json says."""
    layers = facts.layers
    sliding, without_cache = len(layers.sliding), len(layers.other)
    experts = facts.experts or {}
    per_token = None
    if facts.mla is not None:
        # Stock transformers caches the expanded keys and values of every head, not the compressed latent.
        per_token = facts.num_attention_heads * (facts.head_dim + facts.value_dim)
    return ModelShape(
        num_layers=facts.num_layers,
        hidden_size=facts.hidden_size,
        intermediate_size=facts.intermediate_size or 4 * facts.hidden_size,
        vocab_size=facts.vocab_size or 0,
        num_attention_heads=facts.num_attention_heads,
        num_kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        tie_embeddings=facts.tie_embeddings,
        attention_layers=facts.num_layers - sliding - without_cache,
        window_layers=sliding,
        window=layers.sliding_window,
        kv_elements=per_token,
        num_experts=experts.get("num_experts") or 0,
        experts_per_token=experts.get("num_experts_per_tok") or 0,
        expert_size=experts.get("moe_intermediate_size") or 0,
        parameters=parameters,
    )
