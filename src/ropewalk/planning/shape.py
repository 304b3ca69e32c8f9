"""The sizes of a model that memory and cost depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Bytes an element takes; a four-bit cache carries a scale for each 32 values (llama.cpp's q4_0).
BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "int8": 1.0, "int4": 4.5 / 8}
# Projections of a gated feed-forward: gate, up, down. One without a gate has two.
GATED = 3


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: widths of the compressed query and key-value, of a head's plain and rotary part."""

    kv_rank: int
    rotary: int
    plain: int
    q_rank: int | None = None

    @property
    def cached(self) -> int:
        """Elements that a latent cache keeps for one token in one layer, whatever the number of heads."""
        return self.kv_rank + self.rotary


@dataclass(frozen=True)
class Experts:
    """Feed-forwards with experts: `count` of width `size`, `active` of them a token, beside a `shared` width, in
    `layers` of the layers; None means in all."""

    count: int
    active: int
    size: int
    shared: int = 0
    layers: int | None = None


@dataclass(frozen=True)
class Stored:
    """Quantised weights: `bits` an element with its scales, of all projections or of the experts' alone.

    `packed` ones stay so while adapters train beside them; others are widened on loading.
    """

    method: str
    bits: float
    part: Literal["projections", "experts"] = "projections"
    packed: bool = False


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model, counted in elements.

    `attention_layers` hold keys and values for the whole context, `window_layers` only for the last `window` tokens
    (of a chunk, where `chunked`); None derives the former from the latter. `value_dim` is the width of a value head,
    where it is not `head_dim`. `mlp_projections` is 3 for a gated feed-forward and 2 for one without a gate.
    `parameters` is the exact count where the weights were at hand; None estimates it. `stored` says how the file keeps
    its weights where they are quantised.
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
    chunked: bool = False
    value_dim: int | None = None
    latent: Latent | None = None
    mlp_projections: int = GATED
    experts: Experts | None = None
    parameters: int | None = None
    stored: Stored | None = None

    @property
    def full_layers(self) -> int:
        """Layers whose cache grows with the whole context."""
        if self.attention_layers is not None:
            return self.attention_layers
        return self.num_layers - self.window_layers

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all key heads together, as attention sees them."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Width of all value heads together."""
        return self.num_kv_heads * (self.value_dim or self.head_dim)

    @property
    def output_size(self) -> int:
        """Width of attention's result before its output projection."""
        return self.num_attention_heads * (self.value_dim or self.head_dim)

    @property
    def embedding_parameters(self) -> int:
        """Input embedding, and the output one where it is not tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)

    @property
    def attention_parameters(self) -> int:
        """Query, key, value and output projections of one layer; with a latent, its down and up projections."""
        if self.latent is None:
            return self.hidden_size * (self.query_size + self.key_size + self.value_size + self.output_size)
        latent, rank = self.latent, self.latent.q_rank
        query = self.hidden_size * self.query_size
        if rank is not None:
            query = rank * (self.hidden_size + self.query_size)
        heads = self.num_attention_heads * (latent.plain + (self.value_dim or self.head_dim))
        pairs = self.hidden_size * latent.cached + latent.kv_rank * heads
        return query + pairs + self.output_size * self.hidden_size

    @property
    def mlp_parameters(self) -> int:
        """The feed-forward of one layer: with experts, all of them, their router and the shared part."""
        each = self.mlp_projections * self.hidden_size
        if self.experts is None:
            return each * self.intermediate_size
        experts = self.experts
        return each * (experts.count * experts.size + experts.shared) + experts.count * self.hidden_size

    @property
    def expert_layers(self) -> int:
        """Layers whose feed-forward has experts."""
        if self.experts is None:
            return 0
        return self.num_layers if self.experts.layers is None else self.experts.layers

    @property
    def expert_parameters(self) -> int:
        """Every routed expert of every layer."""
        if self.experts is None:
            return 0
        routed = self.experts.count * self.experts.size
        return self.expert_layers * self.mlp_projections * self.hidden_size * routed

    @property
    def layer_parameters(self) -> int:
        """One layer with its two norms; the one with experts where there are any, since it is the larger."""
        return self.attention_parameters + self.mlp_parameters + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters: the exact count, or the estimate, which leaves out biases and what else is small."""
        if self.parameters is not None:
            return self.parameters
        dense = self.mlp_projections * self.hidden_size * self.intermediate_size
        plain = self.num_layers - self.expert_layers if self.experts is not None else self.num_layers
        routed = self.expert_layers * self.mlp_parameters
        layers = self.num_layers * (self.attention_parameters + 2 * self.hidden_size) + plain * dense + routed
        return self.embedding_parameters + layers + self.hidden_size

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through, embedding look-up left out; fewer than all with experts."""
        inactive = 0
        if self.experts is not None:
            # A file may leave the number of active experts out: one at least is.
            idle = self.experts.count - max(self.experts.active, 1)
            inactive = self.expert_parameters * idle // self.experts.count
        lookup = 0 if self.tie_embeddings else self.vocab_size * self.hidden_size
        return max(self.num_parameters - inactive - lookup, 1)

    def weight_bytes(self, dtype: str, stored: Stored | None = None) -> int:
        """Bytes of the weights as loaded: what is quantised by its bits, everything else in `dtype`. `stored` is how
        they are quantised while they are loaded, in the place of what the file says."""
        stored = stored or self.stored
        if stored is None:
            return int(self.num_parameters * BYTES[dtype])
        part = self.expert_parameters
        if stored.part == "projections":
            # Quantisers leave embeddings and the output layer as they are.
            part = self.num_parameters - self.embedding_parameters
        return int(part * stored.bits / 8 + (self.num_parameters - part) * BYTES[dtype])

    @property
    def kv_elements(self) -> int:
        """Elements that one attention layer keeps for one token: the latent, or every head's key and value."""
        return self.expanded_kv_elements if self.latent is None else self.latent.cached

    @property
    def expanded_kv_elements(self) -> int:
        """Elements of every head's key and value, which programs without a latent cache keep."""
        return self.key_size + self.value_size
