"""`ropewalk.plan`: from a configuration to options, memory, cost and a recommendation, without loading anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropewalk.analysis import base_bound, base_bound_within
from ropewalk.errors import RopewalkError, shown_command
from ropewalk.models.defects.finding import Finding
from ropewalk.models.facts import ModelFacts
from ropewalk.models.feedforward import ROUGH, feed_forward
from ropewalk.models.inspection import inspect
from ropewalk.models.observations import Observation
from ropewalk.models.quantised import TRAINED_PACKED, stored_bits, unknown_note
from ropewalk.models.sizes import parameters_of
from ropewalk.models.stretch import already_reaches, kept_parameters
from ropewalk.models.structure.values import shown
from ropewalk.planning import (
    Advice,
    Experts,
    FineTuneCost,
    InferenceMemory,
    Latent,
    ModelShape,
    Option,
    Setup,
    Stored,
    advise,
    choose_setup,
    fine_tune_cost,
    inference_memory,
    keep,
    option,
    options_for,
)
from ropewalk.runtimes import Answer, answers, job_for
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length, parse_bytes, parse_target

# The row of the scaling that the file holds already.
PRESENT = "present"


@dataclass(frozen=True)
class Plan:
    """Everything `ropewalk plan` prints."""

    source: str
    facts: ModelFacts
    findings: tuple[Finding, ...]
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
    base_bound_within: float
    notes: tuple[str, ...]
    observations: tuple[Observation, ...] = ()

    @property
    def factor(self) -> float:
        """Target over original length."""
        return self.target_length / self.facts.original_length

    def fits(self, needed: int) -> bool | None:
        """Whether a number of bytes fits one device; None where no memory was given."""
        return None if self.memory_bytes is None else needed <= self.memory_bytes

    def launch(self, recipe: object = "recipe.yaml") -> str:
        """The line that starts the fine-tune on this many devices."""
        line = shown_command("train", recipe)
        return line if self.gpus == 1 else f"accelerate launch --num_processes {self.gpus} -m {line}"

    def longest_inference(self) -> int | None:
        """The longest power-of-two context whose prefill and cache fit, or None where no memory was given."""
        if self.memory_bytes is None:
            return None
        fitting = [
            length
            for power in range(7, 25)
            if inference_memory(self.shape, length := 1 << power, dtype=self.inference.dtype).total()
            <= self.memory_bytes
        ]
        return max(fitting, default=0)

    def to_json(self) -> dict[str, Any]:
        """The `plan --json` document."""
        # No base up to 1e12: JSON has no word for infinity.
        bound = self.base_bound if math.isfinite(self.base_bound) else None
        return {
            "model": self.source,
            "original_length": self.facts.original_length,
            "target_length": self.target_length,
            "factor": self.factor,
            "base_bound": bound,
            "base_bound_within": self.base_bound_within,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
            "observations": [each.to_json() for each in self.observations],
            "options": [option.to_json() for option in self.options],
            "memory": {
                "device_bytes": self.memory_bytes,
                "devices": self.gpus,
                "parameters": self.shape.num_parameters,
                "parameters_exact": self.shape.parameters is not None,
                "stored": None if self.shape.stored is None else asdict(self.shape.stored),
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
            "launch": self.launch(),
        }

    def recipe(self) -> dict[str, Any]:
        """A fine-tuning recipe to begin with: a doubling curriculum to the target, short samples mixed in."""
        target, original = self.target_length, self.facts.original_length
        lengths = [original * 2**step for step in range(1, 32) if original * 2**step < target] + [target]
        # 400 steps in all, as YaRN, shared out over the lengths.
        steps = max(1, 400 // len(lengths))
        # A model that stays as it is trains under its own frequencies.
        advice = self.advice
        stretch = {"method": advice.method, "factor": advice.factor, "parameters": advice.parameters}
        rope = {} if advice.keep else {"rope": stretch | {"follow": "final"}}
        recipe: dict[str, Any] = {
            "format": "ropewalk-recipe/1",
            "name": f"extend-{format_length(target)}",
            "about": f"{original} to {target} tokens with {self.advice.label}; 400 steps, as YaRN's paper.",
            "model": {"path": self.source} | self.setup.model(),
            **rope,
            "data": {"sources": [{"name": "text", "kind": "corpus"}]},
            # At the window itself there are no shorter samples to mix in.
            "stages": [
                {"length": length, "steps": steps} | ({"mix": {original: 0.25}} if length > original else {})
                for length in lengths
            ],
            # The step of the small budget, so that the cost printed is that of this recipe.
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
    despite_errors: bool = False,
    exact_bound: bool = False,
) -> Plan:
    """The options, memory and cost of taking a model to `target` (tokens, `32k` or `8x`).

    `memory` is that of one device (`24GB`), `gpus` how many train together. Reads config.json and, where weights lie
    beside it, the sizes in their headers. `dtype` is the type that weights and cache are held in. A configuration with
    findings of the gravest kind is refused, since every figure would rest on it, unless `despite_errors`.
    `exact_bound` scans for the base bound, which takes long for long targets, instead of reading it off a table.
    """
    looked = inspect(source)
    facts = looked.facts
    target_length = parse_target(target, facts.original_length)
    if not despite_errors:
        _refuse_errors(looked.source, facts, looked.findings)
    shape = shape_of(facts, None if isinstance(source, Mapping) else parameters_of(source))
    options, advice = _advised(facts, target_length)
    memory_bytes = None if memory is None else parse_bytes(memory)
    made, setup = choose_setup(shape, target_length, dtype=dtype, devices=gpus, memory_bytes=memory_bytes)
    rotary_dim = facts.geometry.rotary_dim
    return Plan(
        source=str(source) if not isinstance(source, Mapping) else "config",
        facts=facts,
        findings=looked.findings,
        shape=shape,
        target_length=target_length,
        options=options,
        advice=advice,
        inference=inference_memory(shape, target_length, dtype=dtype, stream_window=facts.original_length),
        setups=made,
        setup=setup,
        costs=fine_tune_cost(shape, target_length),
        memory_bytes=memory_bytes,
        gpus=gpus,
        base_bound=base_bound(rotary_dim, target_length, exact=exact_bound),
        base_bound_within=1.005 if exact_bound else base_bound_within(rotary_dim, target_length),
        notes=_notes(facts),
        observations=looked.observations,
    )


def _refuse_errors(source: str, facts: ModelFacts, findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    said = [f"{finding.id}: {finding.message}" for finding in errors]
    if facts.rope.problem and not said:
        said.append(facts.rope.problem)
    if not said:
        return
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    way = f"`{shown_command('inspect', source)}` lists what it finds"
    mended = shown_command("extend", source, repair=True, o="OUT")
    way += f", `{mended}` mends it" if any(finding.repairable for finding in errors) else ""
    raise RopewalkError(
        f"{source} is not planned, since its configuration is wrong: {said[0]}{more}",
        hint=f"{way}; --despite-errors plans all the same",
    )


def _advised(facts: ModelFacts, target_length: int) -> tuple[list[Option], Advice]:
    """The options, the file's own scaling first where it has one, and the one to begin with."""

    def ask(made: FrequencySchedule) -> Mapping[str, Answer]:
        return answers(job_for(facts, made, target_length=target_length))

    options = options_for(facts.geometry, target_length, kept=kept_parameters(facts), ask=ask)
    # A window longer than the trained one (Phi-3's 262144) lets distances be met that training never showed.
    if not facts.layers.full_rope and (facts.layers.sliding_window or 0) <= facts.original_length:
        reason = (
            f"no rotating layer sees more than {format_length(facts.layers.sliding_window or 0)} tokens, so that no "
            "distance beyond is ever met: a longer text needs no other frequencies, only a larger "
            "max_position_embeddings, and what has slid out of view stays out of reach"
        )
        return options, keep(next(option for option in options if option.label == "none"), reason)
    if facts.rope.schedule is None or not facts.rope.is_scaled:
        return options, advise(facts.geometry, target_length, options)
    present = option(PRESENT, facts.rope.schedule, target_length, ask)
    reached = already_reaches(facts, target_length)
    if reached is not None:
        return [present, *options], keep(present, reached)
    return [present, *options], advise(facts.geometry, target_length, options)


def _notes(facts: ModelFacts) -> tuple[str, ...]:
    """What the figures leave out."""
    notes = []
    stored = stored_bits(facts.config, facts.text)
    if stored is not None and stored[1] is None:
        notes.append(unknown_note(stored[0]))
    if facts.layers.other or facts.text_type in ROUGH or not facts.known:
        notes.append(
            f"the parameters of a {shown(facts.text_type or 'unknown')} model are a rough estimate: what it holds "
            "besides attention and feed-forward is not counted, states of layers without attention neither"
        )
    if facts.rope.problem:
        notes.append(f"the file's own scaling cannot be computed and is no row: {facts.rope.problem}")
    return tuple(notes)


def shape_of(facts: ModelFacts, parameters: int | None = None) -> ModelShape:
    """The sizes that memory depends on, from what config.json says. `parameters` is the count of unquantised weights
    at hand."""
    layers, widths = facts.layers, feed_forward(facts)
    sliding, without_cache = len(layers.sliding), len(layers.other)
    stored = stored_bits(facts.config, facts.text)
    return ModelShape(
        num_layers=facts.num_layers,
        hidden_size=facts.hidden_size,
        intermediate_size=widths.width,
        vocab_size=facts.vocab_size or 0,
        num_attention_heads=facts.num_attention_heads,
        # Latent attention expands its latent to a key and a value for every query head.
        num_kv_heads=facts.num_kv_heads if facts.mla is None else facts.num_attention_heads,
        head_dim=facts.head_dim,
        tie_embeddings=facts.tie_embeddings,
        attention_layers=facts.num_layers - sliding - without_cache,
        window_layers=sliding,
        window=layers.sliding_window,
        chunked="chunked_attention" in layers.layer_types,
        value_dim=facts.value_dim,
        latent=None
        if facts.mla is None
        else Latent(
            kv_rank=facts.mla["kv_lora_rank"] or 0,
            rotary=facts.mla["qk_rope_head_dim"] or 0,
            plain=facts.mla["qk_nope_head_dim"] or 0,
            q_rank=facts.mla["q_lora_rank"],
        ),
        mlp_projections=3 if widths.gated else 2,
        experts=None if widths.experts is None else Experts(**widths.experts),
        # Packed weights hold several values an element, so that their count says nothing.
        parameters=parameters if stored is None else None,
        # Without bits nothing can be counted, and `_notes` says so.
        stored=None
        if stored is None or stored[1] is None
        else Stored(
            stored[0], stored[1], "experts" if stored[2] else "projections", stored[0] in TRAINED_PACKED
        ),
    )
