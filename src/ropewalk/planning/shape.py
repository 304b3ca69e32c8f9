"""The sizes of a model that memory and cost depend on."""

from __future__ import annotations

from dataclasses import dataclass

# Bytes an element takes; a four-bit cache carries a scale for each 32 values (llama.cpp's q4_0).
BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "int8": 1.0, "int4": 4.5 / 8}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model, counted in elements.

    `attention_layers` hold keys and values for the whole context, `window_layers` only for the last `window` tokens.
    `kv_elements` is what one attention layer keeps a token; None derives 2 * num_kv_heads * head_dim.
    `parameters` is the exact count where the weights were at hand; None estimates it.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    tie_embeddings: bool = False
    attention_layers: int | None = None
    window_layers: int = 0
    window: int | None = None
    kv_elements: int | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    parameters: int | None = None

    @property
    def full_layers(self) -> int:
        """Layers whose cache grows with the whole context."""
        if self.attention_layers is not None:
            return self.attention_layers
        return self.num_layers - self.window_layers

    @property
    def embedding_parameters(self) -> int:
        """Input embedding, and the output one where it is not tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)

    @property
    def attention_parameters(self) -> int:
        """Query, key, value and output projections of one layer."""
        query = self.num_attention_heads * self.head_dim
        return self.hidden_size * (2 * query + 2 * self.num_kv_heads * self.head_dim)

    @property
    def mlp_parameters(self) -> int:
        """Gated feed-forward of one layer, every expert and its router counted."""
        if self.num_experts:
            size = self.expert_size or self.intermediate_size
            return self.num_experts * 3 * self.hidden_size * size + self.num_experts * self.hidden_size
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """One layer with its two norms."""
        return self.attention_parameters + self.mlp_parameters + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters: the exact count, or the estimate for a gated decoder of these sizes."""
        if self.parameters is not None:
            return self.parameters
        return self.embedding_parameters + self.num_layers * self.layer_parameters + self.hidden_size

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through, embedding look-up left out; fewer than all with experts."""
        inactive = 0
        if self.num_experts:
            size = self.expert_size or self.intermediate_size
            idle = self.num_experts - max(self.experts_per_token, 1)
            inactive = self.num_layers * idle * 3 * self.hidden_size * size
        lookup = 0 if self.tie_embeddings else self.vocab_size * self.hidden_size
        return max(self.num_parameters - inactive - lookup, 1)

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that one attention layer keeps for one token."""
        return 2 * self.num_kv_heads * self.head_dim if self.kv_elements is None else self.kv_elements
