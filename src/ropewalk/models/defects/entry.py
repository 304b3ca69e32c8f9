"""What can be wrong inside one rotary entry, whatever the dialect it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from ropewalk.errors import near_miss
from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.original import MOST, at, original_rules
from ropewalk.models.defects.tidy import REPAIR
from ropewalk.models.facts import ModelFacts, RopeFacts
from ropewalk.models.structure.ropes import DEFAULT, STOCK_TYPES
from ropewalk.models.structure.scaling import KEEPS_ORIGINAL
from ropewalk.models.structure.table import quirk, row_of
from ropewalk.models.structure.values import is_number, is_whole, shown

NTK_SPELLINGS = ("ntk", "ntk-aware", "ntk_aware", "ntk-static", "static-ntk", "ntk-rope")
_FACTOR_TYPES = ("linear", "dynamic", "yarn", "llama3")
_ALWAYS = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved", "finetuned",
    "llama_4_scaling_beta", "original_max_position_embeddings", "max_position_embeddings", "factor",
}  # fmt: skip
_OWN = {
    "yarn": {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "longrope": {"attention_factor", "short_factor", "long_factor", "short_mscale", "long_mscale"},
    "llama3": {"low_freq_factor", "high_freq_factor"},
}


def entry_rules(
    facts: ModelFacts, rope: RopeFacts, tokenizer: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Every finding about one entry; what the tokenizer allows is evidence of the window that was trained."""
    yield from _type(facts, rope)
    yield from _factor(facts, rope)
    yield from original_rules(facts, rope, tokenizer)
    yield from _longrope(facts, rope)
    yield from _bounds(rope)
    yield from _attention(rope)
    yield from _keys(facts, rope)
    yield from _dynamic(facts, rope)
    yield from _class_limits(facts, rope)


def _type(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    kind = rope.rope_type
    if kind in STOCK_TYPES:
        return
    ntk = kind.lower() in NTK_SPELLINGS
    stretched = is_number(rope.parameters.get("factor")) and rope.parameters["factor"] >= 1
    same = respelled(kind)
    if ntk:
        fix = f"ntk is a changed base: write rope_type default and rope_theta * factor**(d/(d-2)); {REPAIR}"
    elif same is not None:
        fix = f"that is {same} in another spelling: write rope_type {same}; {REPAIR}"
    else:
        fix = near_miss(
            kind,
            STOCK_TYPES,
            count=1,
            otherwise=f"use one of {', '.join(STOCK_TYPES)}; `ropewalk methods` lists what exists",
        )
    yield Finding(
        "unknown-rope-type",
        "error",
        f"rope_type={shown(kind)}{at(rope)} is none that transformers knows: the configuration loads with a "
        "log line and the model dies with a KeyError when it is built",
        fix,
        repairable=(ntk and stretched) or same is not None,
    )


def respelled(kind: str) -> str | None:
    """The stock type that a name is another spelling of: other case, or `su`, as LongRoPE was called first."""
    plain = kind.strip().lower()
    return "longrope" if plain == "su" else plain if plain in STOCK_TYPES and plain != kind else None


def _factor(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    kind, value = rope.rope_type, rope.parameters.get("factor")
    implied = facts.max_position_embeddings / rope.geometry.original_length
    if value is None or (kind != "default" and (not is_number(value) or value <= 0)):
        yield from _unusable(rope, value, implied)
    elif kind == "default" and value != 1:
        yield Finding(
            "ineffective-factor",
            "warning",
            f"factor={shown(value)}{at(rope)} has no effect: rope_type is default",
            "name the type that it belongs to, or remove it",
        )
    elif value < 1:
        yield Finding(
            "factor-below-one",
            "error",
            f"factor={value:g}{at(rope)} shrinks the window instead of stretching it",
            f"write its inverse if that was meant, factor={1 / value:g}",
        )
    elif value > MOST:
        text = f"factor={value:g}{at(rope)} is beyond any stretch: frequencies come out as zero"
        yield Finding("bad-factor", "error", text, "write the target length over the original one")
    elif value == 1 and kind in _FACTOR_TYPES:
        yield Finding(
            "factor-one", "note", f"factor=1{at(rope)} changes nothing", "remove the entry, or stretch"
        )
    else:
        yield from _mismatch(facts, rope, float(value), implied)


def _unusable(rope: RopeFacts, value: Any, implied: float) -> Iterator[Finding]:
    """No factor at all, or one that is no positive number; the two lengths may say which was meant."""
    kind = rope.rope_type
    usable = implied > 1.0 and kind in KEEPS_ORIGINAL
    fix = "write the target length over the original one, above 1"
    if usable:
        fix = f"write factor={implied:g}, max_position_embeddings over the original length; {REPAIR}"
    if value is None:
        if kind in _FACTOR_TYPES and "factor" not in rope.parameters:
            text = f"rope_type={kind}{at(rope)} has no factor: transformers 5 refuses the configuration"
            yield Finding("missing-factor", "error", text, fix, repairable=usable)
        return
    backwards = is_number(value) and value < 0
    effect = "turns every pair backwards, with only a log line" if backwards else "cannot work"
    text = f"factor={shown(value)}{at(rope)} {effect}"
    yield Finding("bad-factor", "error", text, fix, repairable=usable)


def _mismatch(facts: ModelFacts, rope: RopeFacts, factor: float, implied: float) -> Iterator[Finding]:
    # Every release with llama3 has a window of its own beside the factor (3.1: 16 times by factor 8, 3.2: by 32).
    if rope.rope_type not in ("yarn", "longrope") or abs(implied / factor - 1) < 0.01 or implied <= 1.0:
        return
    original, window = rope.geometry.original_length, facts.max_position_embeddings
    short = implied > factor
    yield Finding(
        "factor-mismatch",
        "warning" if short else "note",
        f"factor={factor:g}{at(rope)}, but max_position_embeddings={window} over the original {original} is "
        f"{implied:g}: "
        + (
            "positions past factor times the original are not covered"
            if short
            else "the window is not used up"
        ),
        f"write factor={implied:g}, or max_position_embeddings={round(original * factor)}",
    )


def _longrope(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    if rope.rope_type != "longrope":
        return
    count = rope.geometry.half_dim
    lists = {name: rope.parameters.get(name) for name in ("short_factor", "long_factor")}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(is_number(value) and value > 0 for value in values):
            yield Finding(
                "longrope-list",
                "error",
                f"{name}{at(rope)} is not a list of positive numbers: {shown(values)}",
                f"write {count} factors, one a pair, each 1 or more",
            )
        elif len(values) != count:
            yield Finding(
                "longrope-length",
                "error",
                f"{name}{at(rope)} has {len(values)} entries, the model has {count} pairs: the first forward "
                "crashes",
                "use the factors that were searched for this model",
            )
        elif any(later < earlier for earlier, later in pairwise(values)):
            yield Finding(
                "longrope-decreasing",
                "warning",
                f"{name}{at(rope)} falls from one pair to the next: a slower pair stretched less than a faster "
                "one",
                "check the order of the list",
            )
    if rope.schedule is not None and lists["short_factor"] != lists["long_factor"]:
        yield Finding(
            "longrope-two-sets",
            "note",
            f"longrope{at(rope)} switches its frequencies past {rope.geometry.original_length} tokens: "
            "transformers by the longest row of a batch, so that batch mates change a short prompt, and never "
            "its attention factor; vLLM and llama.cpp once, by the configured length; MLX always uses the "
            "long set",
            "compare runtimes in the same regime, or write one set (long_factor for both)",
        )


def _bounds(rope: RopeFacts) -> Iterator[Finding]:
    parameters = rope.parameters
    if rope.rope_type == "llama3":
        low, high = parameters.get("low_freq_factor"), parameters.get("high_freq_factor")
        if not is_number(low) or not is_number(high) or low <= 0 or high < low:
            yield Finding(
                "llama3-bounds",
                "error",
                f"low_freq_factor={shown(low)}, high_freq_factor={shown(high)}{at(rope)}: both are needed, 0 < "
                "low <= high",
                "Llama 3.1 ships 1 and 4",
            )
    if rope.rope_type == "yarn":
        # Zero counts as unset here, as in stock code.
        fast, slow = parameters.get("beta_fast") or 32, parameters.get("beta_slow") or 1
        if not is_number(fast) or not is_number(slow) or slow <= 0 or fast < slow:
            yield Finding(
                "yarn-betas",
                "error",
                f"beta_fast={shown(fast)}, beta_slow={shown(slow)}{at(rope)}: the ramp needs 0 < beta_slow <= "
                "beta_fast",
                "the paper uses 32 and 1",
            )
        if rope.layer_type != DEFAULT and parameters.get("truncate") is False:
            yield Finding(
                "nested-truncate",
                "error",
                f"truncate=false{at(rope)} is ignored: transformers looks for it beside the layer types, not "
                "inside them",
                f"carry the same frequencies as longrope factors; {REPAIR}",
                repairable=rope.schedule is not None,
            )


def _attention(rope: RopeFacts) -> Iterator[Finding]:
    value = rope.parameters.get("attention_factor")
    if value is not None and (not is_number(value) or value <= 0):
        yield Finding(
            "bad-attention-factor",
            "error",
            f"attention_factor={shown(value)}{at(rope)} is not a positive number",
            "remove it to get the type's own, or write 1.0",
        )
    shares = {name: rope.parameters.get(name) for name in ("mscale", "mscale_all_dim")}
    # By truth, not by presence: stock code takes a zero for a missing one.
    if rope.rope_type == "yarn" and sum(bool(share) for share in shares.values()) == 1:
        name = next(name for name, share in shares.items() if share)
        yield Finding(
            "mscale-alone",
            "note",
            f"{name}={shown(shares[name])}{at(rope)} without its partner: for cos and sin transformers needs "
            "both and uses 0.1 ln(factor) + 1 instead",
            "give both, or an attention_factor",
        )


def _keys(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    parameters, kind = rope.parameters, rope.rope_type
    if "attn_factor" in parameters:
        yield Finding(
            "attn-factor-spelling",
            "warning",
            f"attn_factor={shown(parameters['attn_factor'])}{at(rope)} is read by SGLang, as a multiplier; "
            "transformers, vLLM and MLX ignore it and look for attention_factor, the final value",
            f"write attention_factor as well, attn_factor * (0.1 ln(factor) + 1); {REPAIR}",
            repairable=kind == "yarn"
            and is_number(parameters["attn_factor"])
            and parameters["attn_factor"] > 0,
        )
    if kind not in STOCK_TYPES:
        return
    known = _ALWAYS | _OWN.get(kind, set()) | {"attn_factor"}
    if (row_of(facts.text_type) or {}).get("softmax_mscale"):
        known = known | {"mscale", "mscale_all_dim"}
    other = {name for names in _OWN.values() for name in names}
    strange = sorted(
        name for name in parameters if name not in known and not isinstance(parameters[name], dict)
    )
    # A hostile file may hold thousands.
    for name in strange[:20]:
        belongs = [owner for owner, names in _OWN.items() if name in names]
        why = f"belongs to {' and '.join(belongs)}" if name in other else "is no key that transformers knows"
        yield Finding(
            "unknown-key",
            "warning",
            f"{shown(name)}{at(rope)} has no effect: it {why}, and rope_type is {kind}",
            "remove it, or correct its spelling",
        )


def _dynamic(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    if rope.rope_type != "dynamic":
        return
    yield Finding(
        "dynamic-state",
        "warning",
        f"dynamic scaling{at(rope)} changes its frequencies as the text grows: in transformers the same prompt "
        "gives other logits after a longer one, cached keys keep old frequencies, and vLLM's dynamic is "
        "another rule (static, or none)",
        "use a static method (`ropewalk extend --method ntk`), or exact dynamic scaling in Python (`ropewalk.dynamic`)",
    )
    stated = rope.parameters.get("original_max_position_embeddings")
    if is_whole(stated) and stated != facts.max_position_embeddings:
        yield Finding(
            "dynamic-original-ignored",
            "error",
            f"original_max_position_embeddings={stated}{at(rope)} is ignored by dynamic scaling, which counts "
            f"from max_position_embeddings={facts.max_position_embeddings}: nothing is stretched before that "
            "length",
            f"write max_position_embeddings={stated}",
        )


def _class_limits(facts: ModelFacts, rope: RopeFacts) -> Iterator[Finding]:
    """Types that this model's own class refuses or misreads although others take them."""
    kind, family = rope.rope_type, facts.text_type
    if quirk(family, "own_mscales") and kind != "default":
        yield from _phimoe(rope)
    if quirk(family, "default_only") and kind != "default":
        yield Finding(
            "recurrent-gemma-scaled",
            "error",
            f"rope_type={kind}: RecurrentGemma takes only default, and crashes when it is built",
            "change rope_theta instead (`ropewalk extend --method ntk`), or apply the schedule in memory",
        )
    share = rope.parameters.get("partial_rotary_factor")
    row = row_of(family)
    if (
        row
        and not row.get("partial")
        and not row.get("table")
        and kind == "default"
        and is_number(share)
        and share != 1
    ):
        yield Finding(
            "partial-rotary-ignored",
            "warning",
            f"partial_rotary_factor={share:g}{at(rope)}: {family} rotates whole heads and never reads it, "
            "until a scaled type does and the shapes no longer fit",
            "remove it",
        )


def _phimoe(rope: RopeFacts) -> Iterator[Finding]:
    missing = [name for name in ("short_mscale", "long_mscale") if not is_number(rope.parameters.get(name))]
    if missing:
        yield Finding(
            "phimoe-mscale",
            "error",
            f"phimoe with rope_type={rope.rope_type} needs {' and '.join(missing)}: its class refuses the "
            "configuration, and uses them in place of the attention factor",
            f"write the attention factor under both names; {REPAIR}",
            repairable=rope.schedule is not None,
        )
    if rope.rope_type == "longrope" and rope.parameters.get("short_factor") != rope.parameters.get(
        "long_factor"
    ):
        yield Finding(
            "phimoe-long-set-unused",
            "warning",
            "transformers' phimoe recomputes its frequencies on every call without the length: long_factor is never "
            "used, at any length",
            "write the set that is wanted under both names",
        )
