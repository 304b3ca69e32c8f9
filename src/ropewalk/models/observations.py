"""What about an architecture makes a stretch easy or hard, as others measured it: observations, never a verdict.

The source is OlmPool (Bertsch et al. 2026, "Cracks in the Foundation: Seemingly Minor Architectural Choices Impact Long
Context Extension", 26 models of 7B on the same data): normalisation, grouped queries, sliding windows and a short
pretraining window each cost little alone; three or more together cost up to 47 % of the long-context score, and neither
loss nor short benchmarks show it. How much holds for a given model only measuring it tells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.table import quirk
from ropewalk.models.structure.view import view_of
from ropewalk.units import format_length

SOURCE = "OlmPool, Bertsch et al. 2026"
# The windows that were compared: 8k extended better than 4k.
SHORT_WINDOW = 4096


@dataclass(frozen=True)
class Observation:
    """One feature. `hampers` says whether the source found that it makes a stretch harder; None: not compared."""

    feature: str
    value: str
    hampers: bool | None
    source: str = SOURCE

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)


def observe(facts: ModelFacts) -> tuple[Observation, ...]:
    """The features of an architecture that were found to bear on long-context extension."""
    return (_norm(facts), _grouped(facts), _sliding(facts), _window(facts))


def summary(observations: tuple[Observation, ...]) -> str | None:
    """One line where features add up, and None where at most one was found to matter."""
    count = sum(bool(each.hampers) for each in observations)
    if count < 2:
        return None
    found = "up to 47 % was lost with three or more" if count >= 3 else "two together cost little, three much"
    return f"{count} of {len(observations)} features that make a stretch harder ({found}): measure before training"


def mention(observations: tuple[Observation, ...]) -> str:
    """The features that matter by name, with the source, for whoever plans a stretch; a measurement decides."""
    found = [f"{each.feature} ({each.value})" for each in observations if each.hampers]
    if not found:
        return f"Architecture: none of the features that were found to make a stretch harder ({SOURCE})."
    said = summary(observations) or "1 feature that makes a stretch a little harder: measure before training"
    return f"Architecture: {', '.join(found)}. {said[0].upper()}{said[1:]} ({SOURCE})."


def _norm(facts: ModelFacts) -> Observation:
    if not facts.known:
        return Observation("normalisation", "unknown for this model type", None)
    key = quirk(facts.text_type, "qk_norm")
    queries = key is True or (isinstance(key, str) and bool(view_of(facts.config).get(key)))
    behind = bool(quirk(facts.text_type, "norm_after"))
    kinds = (["of queries and keys"] if queries else []) + (["behind the blocks"] if behind else [])
    return Observation("normalisation", " and ".join(kinds) or "before the blocks alone", bool(kinds))


def _grouped(facts: ModelFacts) -> Observation:
    if facts.mla is not None:
        return Observation("grouped queries", "latent attention (MLA)", None)
    ratio = facts.num_attention_heads / facts.num_kv_heads
    if ratio == 1:
        return Observation("grouped queries", "none: a key head for each query head", False)
    return Observation("grouped queries", f"{ratio:g} query heads share a key head", True)


def _sliding(facts: ModelFacts) -> Observation:
    layers = facts.layers
    window = layers.sliding_window
    # A window at least as long as the declared one hides nothing.
    if not layers.sliding or window is None or window >= facts.max_position_embeddings:
        return Observation("sliding windows", "none", False)
    return Observation(
        "sliding windows",
        f"{len(layers.sliding)} of {facts.num_layers} layers see {format_length(window)}",
        True,
    )


def _window(facts: ModelFacts) -> Observation:
    length = facts.original_length
    text = f"{format_length(length)} tokens, as far as the file tells"
    return Observation("window before the stretch", text, length <= SHORT_WINDOW)
