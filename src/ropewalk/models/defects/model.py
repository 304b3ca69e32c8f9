"""What can be wrong around the rotary entries: heads, layers, windows, the tokenizer, the base for a target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.analysis import base_bound
from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.tidy import REPAIR
from ropewalk.models.facts import ModelFacts
from ropewalk.models.source import NO_LIMIT
from ropewalk.models.structure.layers import LayerFacts
from ropewalk.models.structure.record import RECORD
from ropewalk.models.structure.table import row_of
from ropewalk.models.structure.values import is_number, is_whole, shown
from ropewalk.units import format_length

_CRASH_ON_NONE = ("yarn", "longrope", "dynamic")


def model_rules(
    facts: ModelFacts,
    *,
    target: int | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    bound: float | None = None,
) -> Iterator[Finding]:
    """Every finding about the model around its rotary entries; some need the target length or the tokenizer."""
    yield from _head_dim(facts)
    yield from _layers(facts, target)
    yield from _without_rope(facts)
    yield from _serving(facts)
    yield from _linear_original(facts)
    yield from _softmax(facts)
    yield from _code(facts)
    if tokenizer is not None:
        yield from _tokenizer(facts, tokenizer)
    if target is not None:
        yield from _base_for(facts, target, bound)


def _head_dim(facts: ModelFacts) -> Iterator[Finding]:
    row = row_of(facts.text_type)
    # Of an unknown class only a null in the file says that nobody fills it in.
    left_open = facts.text.get("head_dim") is None and (
        (row is not None and row.get("head_dim") == "null") or (row is None and "head_dim" in facts.text)
    )
    if not left_open:
        return
    crashes = sorted({rope.rope_type for rope in facts.ropes.values()} & set(_CRASH_ON_NONE))
    yield Finding(
        "head-dim-null",
        "error" if crashes else "note",
        f"head_dim is null, and {facts.text_type} does not fill it in: "
        + (
            f"rope_type {crashes[0]} computes with None and crashes"
            if crashes
            else "yarn, longrope and dynamic would crash"
        ),
        f"write head_dim={facts.geometry.head_dim}; {REPAIR if crashes else 'extending writes it'}",
        repairable=bool(crashes),
    )


def _layers(facts: ModelFacts, target: int | None) -> Iterator[Finding]:
    layers = facts.layers
    types = facts.text.get("layer_types")
    if isinstance(types, list) and len(types) != facts.num_layers:
        yield Finding(
            "layer-types-length",
            "error",
            f"layer_types names {len(types)} layers, num_hidden_layers is {facts.num_layers}: transformers "
            "refuses it",
            "correct one of them",
        )
    window = layers.sliding_window
    nothing = nothing_to_stretch(facts, target)
    if nothing is not None:
        yield Finding(
            "all-layers-slide",
            "warning",
            nothing,
            f"set sliding_window to null if the model was trained with full attention; a target above {window} "
            "is reached only through stacked windows",
        )
    elif (
        window is not None
        and layers.sliding
        and not _all_slide(layers)
        and target is not None
        and window < target
    ):
        yield Finding(
            "sliding-window-short",
            "note",
            f"{len(layers.sliding)} of {facts.num_layers} layers see only {window} tokens, also at "
            f"{format_length(target)}: the stretch concerns the others, and sliding layers keep their "
            "frequencies where they have their own",
            "nothing to mend",
        )


def nothing_to_stretch(facts: ModelFacts, target: int | None = None) -> str | None:
    """What to say where every rotating layer slides over a window that training showed whole; None for other models."""
    window = facts.layers.sliding_window
    reach = facts.max_position_embeddings if target is None else target
    # A window at least as long as the text hides nothing (Phi-3's is 262144, beside 131072); one beyond the original
    # window meets distances that training did not show, and a stretch has something to do.
    if window is None or not _all_slide(facts.layers) or window >= reach or window > facts.original_length:
        return None
    return (
        f"every rotating layer sees only a window of {window} tokens: no distance beyond it occurs, so a "
        "stretch changes nothing that the model could not already do"
    )


def _all_slide(layers: LayerFacts) -> bool:
    return bool(layers.sliding) and not layers.full_rope and not layers.no_rope


def _without_rope(facts: ModelFacts) -> Iterator[Finding]:
    layers = facts.layers
    if facts.text_path == ("global_config",):
        yield Finding(
            "local-parts",
            "note",
            "the byte-level encoder and decoder attend within a local window and keep their frequencies: the global "
            "transformer over patches is what a stretch concerns",
            "nothing to mend",
        )
    if layers.no_rope:
        effect = ": a stretch does not touch them"
        if not layers.full_rope:
            effect = ", the rotating ones see a window only: they reach far, and a stretch matters little"
        yield Finding(
            "layers-without-rope",
            "note" if layers.full_rope else "warning",
            f"{len(layers.no_rope)} of {facts.num_layers} layers attend without rotation{effect}",
            "measure before and after: ropewalk compare",
        )


def _serving(facts: ModelFacts) -> Iterator[Finding]:
    rope = facts.rope
    if rope.rope_type != "linear" or not facts.config.get(RECORD) or rope.factor <= 1:
        return
    window = facts.max_position_embeddings
    yield Finding(
        "serving-length-multiplied",
        "note",
        f"max_position_embeddings={window} already holds the factor {rope.factor:g}, and vLLM multiplies it "
        "once more for linear: it would offer a window that was never asked for",
        f"start vLLM with --max-model-len {window}",
    )


def _linear_original(facts: ModelFacts) -> Iterator[Finding]:
    rope = facts.rope
    if rope.rope_type != "linear" or facts.config.get(RECORD) or rope.factor <= 1:
        return
    if is_whole(rope.parameters.get("original_max_position_embeddings")):
        return
    window, original = facts.max_position_embeddings, facts.original_length
    other = round(window / rope.factor) if original == window else window
    yield Finding(
        "linear-original-unclear",
        "note",
        f"linear scaling does not say from which window it stretches; {original} is taken, but "
        f"max_position_embeddings={window} leaves {other} possible as well (it depends on whether it was "
        "raised with the factor)",
        "write original_max_position_embeddings into the rotary dictionary",
    )


def _softmax(facts: ModelFacts) -> Iterator[Finding]:
    rope = facts.rope
    if rope.softmax_scale != 1.0:
        yield Finding(
            "softmax-scaled",
            "note",
            f"mscale_all_dim={shown(rope.parameters.get('mscale_all_dim'))} and factor {rope.factor:g} also "
            f"multiply the softmax scale of {facts.text_type} by {rope.softmax_scale:.4g}, on all dimensions "
            "of a head",
            "a new stretch keeps mscale_all_dim, so that this temperature follows the new factor",
        )


def _code(facts: ModelFacts) -> Iterator[Finding]:
    if facts.auto_map:
        yield Finding(
            "remote-code",
            "note",
            "auto_map names code that comes with the model; it is not run, and may read the rotary keys in its "
            "own way",
            "pass --trust-remote-code where a command loads the model, after reading that code",
        )
    if not facts.known:
        yield Finding(
            "unknown-model-type",
            "warning",
            f"model_type={shown(facts.text_type)} is not in the installed table of classes: only what the file "
            "itself says is used",
            "compare with the model's own code before trusting the numbers",
        )


def _tokenizer(facts: ModelFacts, tokenizer: Mapping[str, Any]) -> Iterator[Finding]:
    limit = tokenizer.get("model_max_length")
    window = facts.max_position_embeddings
    if not is_number(limit) or limit <= 0 or limit >= NO_LIMIT or limit == window:
        return
    short = limit < window
    yield Finding(
        "tokenizer-length",
        "warning" if short else "note",
        f"tokenizer_config.json says model_max_length={int(limit)}, config.json "
        f"max_position_embeddings={window}: "
        + (
            "truncation=True cuts there, and pipelines warn"
            if short
            else "longer inputs pass without a warning"
        ),
        f"write model_max_length={window} (extending does)",
    )


def _base_for(facts: ModelFacts, target: int, bound: float | None) -> Iterator[Finding]:
    geometry = facts.geometry
    if geometry.proportional or target <= facts.original_length:
        return
    bound = base_bound(geometry.rotary_dim, target) if bound is None else bound
    theta = facts.rope.parameters["rope_theta"]
    if theta < bound:
        least = (
            f"rope_theta={theta:g} is below {bound:.3g}, the smallest base whose similarity stays positive"
        )
        if math.isinf(bound):
            least = f"neither rope_theta={theta:g} nor any up to 1e12 keeps the similarity positive"
        yield Finding(
            "base-below-bound",
            "note",
            f"{least} up to {format_length(target)} ({geometry.rotary_dim} rotary dimensions): far tokens may look "
            "less alike than random",
            "a method that slows the late pairs (ntk, yarn, abf) raises it; `ropewalk plan` compares them",
        )
