"""Which layer does what: full or sliding attention, attention without rotation, no attention at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.structure.table import quirk
from ropewalk.models.structure.values import optional_whole, shown
from ropewalk.models.structure.view import TextView

MAX_LAYERS = 65536
_SLIDING = ("sliding_attention", "chunked_attention", "hybrid_sliding", "local_attention", "local")
# Where use_sliding_window is on and max_window_layers is left out.
_MAX_WINDOW_LAYERS = 28
_NO_ATTENTION = (
    "linear_attention",
    "conv",
    "mamba",
    "recurrent",
    "mamba2",
    "lightning",
    "rwkv",
    "moe",
    "mlp",
)


@dataclass(frozen=True)
class LayerFacts:
    """The layers by index. `other` hold no attention; `no_rope` hold attention that never rotates."""

    layer_types: tuple[str, ...]
    sliding_window: int | None
    no_rope: tuple[int, ...]

    @property
    def sliding(self) -> tuple[int, ...]:
        """Layers that see only a window or a chunk."""
        return tuple(i for i, kind in enumerate(self.layer_types) if kind in _SLIDING)

    @property
    def other(self) -> tuple[int, ...]:
        """Layers without attention (linear, convolution, state space)."""
        return tuple(i for i, kind in enumerate(self.layer_types) if kind in _NO_ATTENTION)

    @property
    def rope(self) -> tuple[int, ...]:
        """Layers that rotate queries and keys."""
        left_out = {*self.no_rope, *self.other}
        return tuple(i for i in range(len(self.layer_types)) if i not in left_out)

    @property
    def full_rope(self) -> tuple[int, ...]:
        """Layers that rotate and see the whole context: those that a longer window concerns."""
        sliding = set(self.sliding)
        return tuple(i for i in self.rope if i not in sliding)

    def to_json(self) -> dict[str, Any]:
        """Counts and indices."""
        return {
            "num_layers": len(self.layer_types),
            "layer_types": list(self.layer_types),
            "sliding_window": self.sliding_window,
            "sliding": list(self.sliding),
            "no_rope": list(self.no_rope),
            "no_attention": list(self.other),
            "full_rope": list(self.full_rope),
        }


def is_sliding(layer_type: str) -> bool:
    """Whether a layer type sees only a window or a chunk."""
    return layer_type in _SLIDING


def layers_of(view: TextView) -> LayerFacts:
    """Read the layers of a text model."""
    count = view.whole("num_hidden_layers")
    if count > MAX_LAYERS:
        raise RopewalkError(
            f"config.json: num_hidden_layers={shown(count)} is beyond any model", hint="correct it"
        )
    types = _types(view, count)
    window = _window(view)
    return LayerFacts(
        types, window if any(is_sliding(kind) for kind in types) else None, _no_rope(view, types)
    )


def _types(view: TextView, count: int) -> tuple[str, ...]:
    given = view.given("layer_types")
    if isinstance(given, list) and given and all(isinstance(kind, str) for kind in given):
        # Some files list more or fewer types than there are layers; stock code refuses those, findings name them.
        padded = [*given, *[given[-1]] * max(0, count - len(given))]
        return tuple(padded[:count])
    # Bamba and LFM2 list the layers that attend instead of a type for each.
    indices = view.text.get("attn_layer_indices") or view.text.get("full_attn_idxs")
    if isinstance(indices, list):
        return tuple("full_attention" if i in indices else "linear_attention" for i in range(count))
    if quirk(view.model_type, "uniform_sliding") or (
        # Of an unknown class only the file speaks, and Qwen's kin keep a window in it that they switch off.
        view.row is None
        and optional_whole(view.text.get("sliding_window"))
        and view.text.get("use_sliding_window") is not False
    ):
        kind = "sliding_attention" if _window(view) else "full_attention"
        return (kind,) * count
    return _patterned(view, count)


def _patterned(view: TextView, count: int) -> tuple[str, ...]:
    """The class's own pattern; an integer `sliding_window_pattern` in the file changes its period."""
    flags = view.text.get("no_rope_layers")
    if quirk(view.model_type, "chunks_by_flags") and isinstance(flags, list) and len(flags) == count:
        return tuple("chunked_attention" if flag else "full_attention" for flag in flags)
    period = optional_whole(view.given("sliding_window_pattern"))
    pattern = (view.row or {}).get("layer_types") or ["full_attention"]
    if quirk(view.model_type, "switched_sliding") and view.text.get("use_sliding_window") is True:
        first = optional_whole(view.text.get("max_window_layers")) or _MAX_WINDOW_LAYERS
        return tuple("sliding_attention" if i >= first else "full_attention" for i in range(count))
    if period is not None and "sliding_attention" in pattern:
        return tuple("full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(count))
    types = [pattern[i % len(pattern)] for i in range(count)]
    if quirk(view.model_type, "last_layer_full") and types:
        types[-1] = "full_attention"
    return tuple(types)


def _window(view: TextView) -> int | None:
    # As Mistral, Llama 4 and ModernBERT call it.
    for name in ("sliding_window", "attention_chunk_size", "local_attention"):
        window = optional_whole(view.get(name))
        if window is not None:
            return window
    return None


def _no_rope(view: TextView, types: tuple[str, ...]) -> tuple[int, ...]:
    attention = [i for i, kind in enumerate(types) if kind not in _NO_ATTENTION]
    if quirk(view.model_type, "sliding_only_rope"):
        if quirk(view.model_type, "rotates_without_window") and _window(view) is None:
            return ()
        return tuple(i for i in attention if not is_sliding(types[i]))
    flags = view.text.get("no_rope_layers")
    if isinstance(flags, list) and len(flags) == len(types) and all(flag in (0, 1) for flag in flags):
        # The name says the opposite: 1 marks a layer that rotates (Llama 4, SmolLM3).
        return tuple(i for i in attention if not flags[i])
    interval = optional_whole(view.get("no_rope_layer_interval"))
    if interval is not None:
        return tuple(i for i in attention if (i + 1) % interval == 0)
    thetas = view.text.get("layer_rope_theta")
    if isinstance(thetas, list) and len(thetas) == len(types):
        return tuple(i for i in attention if thetas[i] in (0, None))
    return ()
