"""The families that are converted to GGUF, as data: `families.json`, one row a model type, read and applied here.

A row says which keys of config.json become which metadata, what llama.cpp's graph takes for granted, which tensors it
wants and what happens to them on the way. A new family of known operations is a row there and nothing else; its proof
is a run (`tools/runtimes/zoo.py`, `measure.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.layers import is_sliding
from ropewalk.models.structure.view import view_of

OWN_CONVERTER = "convert it with llama.cpp's convert_hf_to_gguf.py and pass the file with --gguf"
OUTPUTS = ("own", "either", "tied")


@dataclass(frozen=True)
class Rule:
    """What is done to the tensors of these names: an operation of `tensors.py`, and what its results are called."""

    names: tuple[str, ...]
    operation: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One row of the table; `families.json` says what each trait means."""

    name: str
    keys: Mapping[str, Any]
    needs: Mapping[str, Sequence[Any]]
    whole: tuple[str, ...]
    layer: tuple[str, ...]
    dense: tuple[str, ...]
    other: tuple[str, ...]
    may: tuple[str, ...]
    output: str
    rules: tuple[Rule, ...]
    inside: Mapping[str, str]
    beside: tuple[str, ...]
    numbers: Mapping[str, str]
    slides: bool
    square: bool


@cache
def table() -> dict[str, Any]:
    """The file as it is."""
    document: dict[str, Any] = json.loads(
        files("ropewalk.runtimes.gguf").joinpath("families.json").read_text(encoding="utf-8")
    )
    return document


@cache
def families() -> dict[str, Family]:
    """Every family by model type."""
    return {name: _family(name) for name in table()["families"]}


def _family(name: str) -> Family:
    row = _joined(name)
    assert row["output"] in OUTPUTS, name
    # A misspelt trait would be passed over and its tensors left as they are.
    assert not set(row) - set(table()["traits"]), name
    rules = tuple(
        Rule(tuple(names), operation, tuple(targets[0] if targets else ()))
        for names, operation, *targets in row["tensors"]
    )
    # null takes away a key of the family that a row is like.
    keys = {key: value for key, value in row["keys"].items() if value is not None}
    lists = {
        trait: tuple(row.get(trait, "").split()) for trait in ("whole", "layer", "dense", "other", "may")
    }
    return Family(
        name=name,
        keys=keys,
        needs=row["needs"],
        output=row["output"],
        rules=rules,
        inside=row.get("inside", {}),
        beside=tuple(row.get("beside", ())),
        numbers=row.get("numbers", {}),
        slides=row.get("slides", False),
        square=row.get("square", False),
        **lists,
    )


def _joined(name: str) -> dict[str, Any]:
    """A row with what it takes from the one that it is like."""
    row = dict(table()["families"][name])
    if "like" not in row:
        return row
    base = _joined(row.pop("like"))
    for trait in ("keys", "needs"):
        row[trait] = base[trait] | row.get(trait, {})
    # Behind the base's own: of several rules that fit a name the first is taken.
    row["tensors"] = [*row.get("tensors", base["tensors"]), *row.pop("also", [])]
    return base | row


def family_of(facts: ModelFacts) -> Family:
    """The family of a model; RopewalkError for one that is not in the table, and for a quantised checkpoint."""
    found = families().get(facts.model_type)
    if found is None:
        why = table()["refused"].get(facts.model_type)
        said = f": {why}" if why else f" ({', '.join(families())} are)"
        raise RopewalkError(
            f"model_type={one_line(facts.model_type, 40)!r} is not converted here{said}", hint=OWN_CONVERTER
        )
    if facts.config.get("quantization_config"):
        raise RopewalkError(
            "the checkpoint is quantised, and GGUF has formats of its own", hint=OWN_CONVERTER
        )
    return found


def check_needs(family: Family, facts: ModelFacts, target_length: int) -> None:
    """RopewalkError where the configuration asks for what llama.cpp's graph of the family does not compute."""
    for name, allowed in family.needs.items():
        value = COMPUTED[name[1:]](facts) if name.startswith("=") else view_of(facts.config).get(name)
        if not any(
            # True equals 1 in Python, and a step of one (decoder_sparse_step) is not a yes.
            value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
            for wanted in allowed
        ):
            wanted = " or ".join(json.dumps(each) for each in allowed if each is not None) or "nothing"
            raise RopewalkError(
                f"{name.removeprefix('=').replace('_', ' ') if name.startswith('=') else name} is "
                f"{one_line(json.dumps(value), 40)}, and llama.cpp computes {family.name} with {wanted} alone",
                hint="nothing that the file could say changes it there; take another program",
            )
    window = facts.sliding_window
    if window is not None and not family.slides and window < target_length:
        raise RopewalkError(
            f"sliding layers see {window} of {target_length} tokens, and llama.cpp computes {family.name} without "
            "a sliding window",
            hint=f"it would be right up to {window} tokens only; take another program",
        )
    if family.slides and _period(facts) is None:
        raise RopewalkError(
            "sliding and full layers come in no regular pattern, and llama.cpp knows no other",
            hint="take another program",
        )
    if family.square and facts.num_attention_heads * facts.head_dim != facts.hidden_size:
        raise RopewalkError(
            f"{facts.num_attention_heads} heads of {facts.head_dim} are not hidden_size={facts.hidden_size}, "
            f"and llama.cpp loads {family.name} only where they are",
            hint="take another program",
        )
    if family.output == "tied" and not facts.tie_embeddings:
        raise RopewalkError(
            f"the output matrix is not the embedding, and llama.cpp computes {family.name} with the embedding alone",
            hint="take another program",
        )


def model_keys(family: Family, facts: ModelFacts) -> dict[str, Any]:
    """The metadata under the architecture's name: what every family has, then what the row says."""
    made: dict[str, Any] = {
        "block_count": facts.num_layers,
        "context_length": facts.max_position_embeddings,
        "embedding_length": facts.hidden_size,
        "feed_forward_length": facts.intermediate_size,
        "attention.head_count": facts.num_attention_heads,
        "attention.head_count_kv": facts.num_kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.value_length": facts.head_dim,
        "rope.dimension_count": facts.geometry.rotary_dim,
        "rope.freq_base": facts.geometry.rope_theta,
        "vocab_size": facts.vocab_size,
    }
    made |= {key: _value(source, facts) for key, source in family.keys.items()}
    for name in ("feed_forward_length", "vocab_size"):
        if made[name] is None:
            raise RopewalkError(f"config.json gives no {name}", hint=OWN_CONVERTER)
    # JSON has 10000 for a base of 10000.0, and llama.cpp refuses a key whose type is not the one it reads.
    floats = set(table()["floats"])
    return {key: float(value) if key in floats else value for key, value in made.items() if value is not None}


def _value(source: Any, facts: ModelFacts) -> Any:
    """One value of `keys`: computed, summed, read with a default, or itself."""
    if isinstance(source, list):
        value = view_of(facts.config).get(source[0])
        # An explicit null where the class has a number means nothing to llama.cpp: only absence takes the default.
        return source[1] if value is None and source[0] not in facts.text else value
    if not isinstance(source, str):
        return source
    if source.startswith("="):
        return COMPUTED[source[1:]](facts)
    parts = [_given(name.strip(), facts) for name in source.split("+")]
    return parts[0] if len(parts) == 1 else sum(parts)


def _given(name: str, facts: ModelFacts) -> Any:
    value = view_of(facts.config).get(name)
    if value is None:
        raise RopewalkError(f"config.json gives no {name}", hint=f"add {name} to config.json")
    return value


def _period(facts: ModelFacts) -> int | None:
    """Every how many layers a full one follows the sliding ones; None where it is otherwise."""
    sliding = [is_sliding(kind) for kind in facts.layer_types]
    # llama.cpp has the full layer at the end of each period; 0 means that every layer slides.
    period = sliding.index(False) + 1 if False in sliding else 0
    regular = [bool(period == 0 or (at + 1) % period) for at in range(len(sliding))]
    return period if sliding == regular and period != 1 else None


def _query_scale(facts: ModelFacts) -> str | float:
    """Gemma's query_pre_attn_scalar, which llama.cpp takes to be the head's width, but for the largest model's."""
    value = float(_given("query_pre_attn_scalar", facts))
    # The 27B models have 46 layers in Gemma 2 and 62 in Gemma 3, by which llama.cpp knows them.
    largest = facts.num_layers == {"gemma2": 46}.get(facts.model_type, 62)
    wanted = facts.hidden_size // facts.num_attention_heads if largest else facts.head_dim
    return "as llama.cpp" if value == wanted else value


def _lite(facts: ModelFacts) -> str:
    """DeepSeek's small models have no low-rank queries, which llama.cpp tells by the number of layers."""
    plain = "q_lora_rank" in facts.text and facts.text["q_lora_rank"] is None
    # DeepSeek-V2-Lite has 27 layers; llama.cpp asks for either number.
    lite = facts.num_layers in (26, 27)
    return "as llama.cpp" if plain == lite else f"q_lora_rank {'none' if plain else 'given'}"


def _interval(facts: ModelFacts) -> int:
    """Every how many layers a full one follows those of linear attention."""
    linear = set(facts.layers.other)
    # Without a full layer: an interval that no layer reaches.
    return next((at + 1 for at in range(facts.num_layers) if at not in linear), facts.num_layers + 1)


def _linear_layers(facts: ModelFacts) -> str:
    """llama.cpp knows a regular pattern, and heads of one width."""
    view, every = view_of(facts.config), _interval(facts)
    regular = set(facts.layers.other) == {at for at in range(facts.num_layers) if (at + 1) % every}
    alike = view.get("linear_key_head_dim") == view.get("linear_value_head_dim")
    return "as llama.cpp" if regular and alike else "irregular" if alike else "of two widths"


def _linear_width(facts: ModelFacts) -> int:
    view = view_of(facts.config)
    # The class's defaults, as the row has them for the other sizes of linear attention.
    return int(view.get("linear_value_head_dim") or 128) * int(view.get("linear_num_value_heads") or 32)


def _sections(facts: ModelFacts) -> list[int]:
    """Pairs for time, height and width of a picture; text has one position for all."""
    given = list(facts.rope.parameters.get("mrope_section") or (11, 11, 10))
    # llama.cpp reads four numbers, whatever the model has.
    return [*given, *[0] * (4 - len(given))]


def _activation(facts: ModelFacts) -> Any:
    """Gemma's newer key, or the older one."""
    view = view_of(facts.config)
    return view.get("hidden_activation") or view.get("hidden_act") or "gelu_pytorch_tanh"


def _rotates_but_each_4th(facts: ModelFacts) -> bool:
    # llama.cpp reads no list: it leaves every fourth layer of SmolLM3 unrotated by a constant.
    return set(facts.layers.no_rope) == set(range(3, facts.num_layers, 4))


def _full_layers_rotate(facts: ModelFacts) -> bool:
    # llama.cpp rotates Cohere2's sliding layers alone.
    return bool(facts.layers.full_rope)


COMPUTED: dict[str, Callable[[ModelFacts], Any]] = {
    "window": lambda facts: facts.sliding_window,
    "period": _period,
    "sliding_theta": lambda facts: next(
        (rope.geometry.rope_theta for label, rope in facts.ropes.items() if is_sliding(label)), None
    ),
    "sliding_layers": lambda facts: len(facts.layers.sliding),
    "query_scale": _query_scale,
    "lite": _lite,
    "interval": _interval,
    "linear_layers": _linear_layers,
    "linear_width": _linear_width,
    "sections": _sections,
    "activation": _activation,
    "feed_forward": lambda facts: facts.intermediate_size or 4 * facts.hidden_size,
    "rotates_but_each_4th": _rotates_but_each_4th,
    "full_layers_rotate": _full_layers_rotate,
}
