"""Memory of inference and of training, by part, in bytes.

Counted for stock transformers with SDPA or FlashAttention, which never hold an attention matrix. Each function says
which elements it counts, so that a measured peak can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.planning.shape import BYTES, ModelShape

Offload = Literal["none", "cpu", "disk"]


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes for a prefill of `length` tokens in chunks and a decode after it."""

    length: int
    batch: int
    weights: int
    kv_cache: dict[str, int]
    chunk: int
    prefill_chunk: int
    logits_whole: int
    logits_last: int

    def total(self, kv_dtype: str = "bfloat16") -> int:
        """Weights, cache, one prefill chunk and the logits of the last token."""
        return self.weights + self.kv_cache[kv_dtype] + self.prefill_chunk + self.logits_last

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {
            "length": self.length,
            "batch": self.batch,
            "weights_bytes": self.weights,
            "kv_cache_bytes": dict(self.kv_cache),
            "prefill_chunk_tokens": self.chunk,
            "prefill_chunk_bytes": self.prefill_chunk,
            "logits_whole_bytes": self.logits_whole,
            "logits_last_bytes": self.logits_last,
            "total_bytes": self.total(),
        }


def kv_cache_bytes(shape: ModelShape, length: int, dtype: str, batch: int = 1) -> int:
    """Keys and values of every layer; a sliding layer keeps its window at most."""
    windowed = min(length, shape.window) if shape.window else length
    tokens = shape.full_layers * length + shape.window_layers * windowed
    return int(batch * tokens * shape.kv_elements_per_token * BYTES[dtype])


def inference_memory(
    shape: ModelShape, length: int, *, dtype: str = "bfloat16", batch: int = 1, chunk: int = 2048
) -> InferenceMemory:
    """Memory to read `length` tokens and go on from there."""
    chunk = min(chunk, length)
    return InferenceMemory(
        length=length,
        batch=batch,
        weights=int(shape.num_parameters * BYTES[dtype]),
        kv_cache={kind: kv_cache_bytes(shape, length, kind, batch) for kind in ("bfloat16", "int8", "int4")},
        chunk=chunk,
        prefill_chunk=int(batch * chunk * _live_elements(shape) * BYTES[dtype]),
        logits_whole=batch * length * shape.vocab_size * 4,
        logits_last=batch * shape.vocab_size * 4,
    )


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes a device for one micro-batch of `tokens` tokens."""

    tokens: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    loss: int
    offloaded: int
    setting: dict[str, Any]

    @property
    def total(self) -> int:
        """What the device must hold at the peak; what is offloaded lies elsewhere."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.loss

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {
            "tokens": self.tokens,
            "weights_bytes": self.weights,
            "gradients_bytes": self.gradients,
            "optimiser_bytes": self.optimiser,
            "activations_bytes": self.activations,
            "loss_bytes": self.loss,
            "offloaded_bytes": self.offloaded,
            "total_bytes": self.total,
            **self.setting,
        }


def training_memory(
    shape: ModelShape,
    tokens: int,
    *,
    dtype: str = "bfloat16",
    master: str | None = "float32",
    checkpointing: bool = True,
    offload: Offload = "none",
    chunked_loss: bool = True,
    loss_chunk: int = 1024,
    lora_rank: int = 0,
    shards: int = 1,
    sharing: int = 1,
) -> TrainingMemory:
    """Memory of one training step.

    Full training with AdamW: weights in `dtype`, gradients in `dtype`, two float32 moments, and a float32 master copy
    where `master` is given and wider than `dtype`. LoRA keeps only its adapters' share of the last three. `shards`
    divides weights, gradients and optimiser as FSDP does, leaving one gathered layer; `sharing` divides the tokens as
    context parallelism does, leaving one layer's keys and values of the whole sequence, with their gradients.
    """
    width, parameters = BYTES[dtype], shape.num_parameters
    trained = lora_parameters(shape, lora_rank) if lora_rank else parameters
    keeps_master = master is not None and BYTES[master] > width
    # LoRA's adapters are small and kept in float32; the frozen weights have neither gradient nor moments.
    gradient_width = 4.0 if lora_rank else width
    weights = (parameters * width + (trained * 4.0 if lora_rank else 0.0)) / shards
    if shards > 1:
        weights += max(shape.layer_parameters, shape.embedding_parameters) * width
    moments = trained * (8.0 + (4.0 if keeps_master and not lora_rank else 0.0))
    share = -(-tokens // sharing)
    activations, offloaded = _activations(shape, share, width, checkpointing, offload)
    if sharing > 1:
        activations += 4 * tokens * shape.num_kv_heads * shape.head_dim * width
    return TrainingMemory(
        tokens=tokens,
        weights=int(weights),
        gradients=int(trained * gradient_width / shards),
        optimiser=int(moments / shards),
        activations=int(activations),
        loss=_loss_bytes(shape, share, width, chunked_loss, loss_chunk),
        offloaded=int(offloaded),
        setting={
            "dtype": dtype,
            "checkpointing": checkpointing,
            "offload": offload,
            "chunked_loss": chunked_loss,
            "lora_rank": lora_rank,
            "shards": shards,
            "sharing": sharing,
        },
    )


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Adapters on the four attention projections: rank * (inputs + outputs) each."""
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return shape.num_layers * rank * (2 * (shape.hidden_size + query) + 2 * (shape.hidden_size + key))


def _live_elements(shape: ModelShape) -> int:
    """Elements a token that are alive at once in one layer's forward: residual, normed input, q, k, v, output, MLP."""
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    mlp = 3 * _mlp_width(shape)
    return 3 * shape.hidden_size + max(2 * query + 2 * key, mlp)


def _saved_elements(shape: ModelShape) -> int:
    """Elements a token that one layer keeps for its backward pass.

    Two norms keep their input and their normalised copy (4 hidden); attention keeps q, k, v after rotation, its output
    and the projections' inputs (2 query + 2 key + 1 hidden); the gated MLP keeps gate, up, activation and product.
    """
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return 5 * shape.hidden_size + 2 * query + 2 * key + 4 * _mlp_width(shape)


def _mlp_width(shape: ModelShape) -> int:
    if shape.num_experts:
        return max(shape.experts_per_token, 1) * (shape.expert_size or shape.intermediate_size)
    return shape.intermediate_size


def _activations(
    shape: ModelShape, tokens: int, width: float, checkpointing: bool, offload: Offload
) -> tuple[float, float]:
    """(bytes on the device, bytes elsewhere). Checkpoints are one hidden state a layer; one layer is rebuilt whole."""
    layer = tokens * _saved_elements(shape) * width
    if not checkpointing:
        held, aside = shape.num_layers * layer, 0.0
        if offload != "none":
            held, aside = 2 * layer, (shape.num_layers - 2) * layer
        return held, max(aside, 0.0)
    checkpoint = tokens * shape.hidden_size * width
    if offload == "none":
        return shape.num_layers * checkpoint + layer, 0.0
    return 2 * checkpoint + layer, shape.num_layers * checkpoint


def _loss_bytes(shape: ModelShape, tokens: int, width: float, chunked: bool, chunk: int) -> int:
    """Logits in the weights' type, their float32 copy and its gradient; chunked, for one chunk only, plus the gradient
    of the hidden states."""
    held = min(tokens, chunk) if chunked else tokens
    hidden = tokens * shape.hidden_size * width if chunked else 0.0
    return int(held * shape.vocab_size * (width + 8.0) + hidden)
