"""The feed-forward of a model as its configuration describes it: width, gate, experts, the shared part.

Types that do as most do (a gate, experts of `moe_intermediate_size` in every layer) need no row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.values import optional_whole
from ropewalk.models.structure.view import TextView, view_of

# Two projections and an activation, no gate.
UNGATED = frozenset(
    (
        "apertus", "arcee", "codegen", "falcon", "fuyu", "gpt_neox", "gpt_neox_japanese", "gptj", "jais2", "nanochat",
        "nemotron", "persimmon", "phi", "starcoder2",
    )
)  # fmt: skip
# What these hold besides attention and feed-forward (state-space heads, expert groups, vision and speech parts, layers
# of several kinds), or how they read their widths, is not counted here: the estimate is rough.
ROUGH = frozenset(
    (
        "afmoe", "aria_text", "axk2", "bailing_hybrid", "bamba", "beam", "blt", "cohere2_moe", "doge", "ernie4_5_moe",
        "exaone_moe", "falcon_h1", "gemma3n_text", "gemma4_text", "gemma4_unified_text", "granitemoehybrid", "hrm_text",
        "hunyuan_v1_moe", "hy_v3", "hy_v4", "jetmoe", "lfm2", "lfm3", "longcat_flash", "mimo_v2_flash", "moshi",
        "phi4_multimodal", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma",
        "roformer", "zamba2", "zaya",
    )
)  # fmt: skip
# The file has no field for the width: it is this many times hidden_size.
_TIMES_HIDDEN = {"falcon": 4, "gptj": 4, "codegen": 4, "fuyu": 4}
# Width of the part that every token passes beside its experts, where it has a field of its own.
_SHARED_WIDTH = {
    "qwen2_moe": ("shared_expert_intermediate_size", 5632),
    "granitemoeshared": ("shared_intermediate_size", 0),
}


@dataclass(frozen=True)
class FeedForward:
    """Width of a dense layer, whether it has a gate, and the experts where there are any.

    `experts` holds count, active, size, shared (width) and layers, as `planning.Experts` takes them.
    """

    width: int
    gated: bool
    experts: Mapping[str, int] | None


def feed_forward(facts: ModelFacts) -> FeedForward:
    """Read it off a configuration."""
    view = view_of(facts.config)
    if facts.text_type == "dbrx":
        return _dbrx(view, facts)
    width = facts.intermediate_size or _TIMES_HIDDEN.get(facts.text_type, 4) * facts.hidden_size
    experts = None if facts.experts is None else _experts(facts, view, width)
    if facts.text_type == "llama4_text":
        # Its intermediate_size is an expert's; the dense layers between have a key of their own.
        width = optional_whole(view.text.get("intermediate_size_mlp")) or 2 * width
    return FeedForward(width, facts.text_type not in UNGATED, experts)


def _dbrx(view: TextView, facts: ModelFacts) -> FeedForward:
    """Its feed-forward has a configuration of its own, whose defaults are those of a single expert."""
    inner = view.text.get("ffn_config")
    given: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    width = optional_whole(given.get("ffn_hidden_size")) or 3584
    experts = {
        "count": optional_whole(given.get("moe_num_experts")) or 4,
        "active": optional_whole(given.get("moe_top_k")) or 1,
        "size": width,
        "shared": 0,
        "layers": facts.num_layers,
    }
    return FeedForward(width, True, experts)


def _experts(facts: ModelFacts, view: TextView, width: int) -> dict[str, int]:
    known: Mapping[str, Any] = facts.experts or {}
    size = known.get("moe_intermediate_size") or width
    name, default = _SHARED_WIDTH.get(facts.text_type, ("shared_expert_intermediate_size", 0))
    shared = optional_whole(view.text.get(name))
    shared = default if shared is None else shared
    if facts.text_type == "llama4_text":
        # One shared expert in every such layer, by the class and by no key.
        shared = size
    return {
        "count": int(known["num_experts"]),
        "active": int(known.get("num_experts_per_tok") or 1),
        "size": size,
        "shared": shared + (known.get("n_shared_experts") or 0) * size,
        "layers": _expert_layers(facts, view),
    }


def _expert_layers(facts: ModelFacts, view: TextView) -> int:
    """Layers with experts: every layer, from `first_k_dense_replace` on, or every so many."""
    text, layers = view.text, facts.num_layers
    listed = text.get("moe_layers")
    if isinstance(listed, list) and listed:
        return len(listed)
    first = (facts.experts or {}).get("first_k_dense_replace") or 0
    step = (
        optional_whole(text.get("interleave_moe_layer_step"))
        or optional_whole(text.get("decoder_sparse_step"))
        or 1
    )
    dense = text.get("mlp_only_layers")
    plain = set(dense) if isinstance(dense, list) else set()
    return sum(i >= first and (i + 1) % step == 0 and i not in plain for i in range(layers))
