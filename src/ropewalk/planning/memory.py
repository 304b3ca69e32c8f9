"""Memory of inference and of training, by part, in bytes.

Counted for stock transformers with SDPA or FlashAttention, which never hold an attention matrix. Each function says
which elements it counts, so that a measured peak can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.planning.kept import kept_bytes
from ropewalk.planning.shape import BYTES, ModelShape, Stored

Offload = Literal["none", "cpu", "disk"]


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes for a prefill of `length` tokens in chunks and a decode after it."""

    length: int
    batch: int
    weights: int
    kv_cache: dict[str, int]
    kv_cache_expanded: int
    chunk: int
    prefill_chunk: int
    logits_whole: int
    logits_last: int
    kv_kinds: dict[str, int]
    dtype: str = "bfloat16"

    def total(self, kv_dtype: str | None = None) -> int:
        """Weights, cache (in the model's own type unless `kv_dtype` names another), one prefill chunk and the logits
        of the last token."""
        return self.weights + self.kv_cache[kv_dtype or self.dtype] + self.prefill_chunk + self.logits_last

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {
            "length": self.length,
            "batch": self.batch,
            "weights_bytes": self.weights,
            "kv_cache_bytes": dict(self.kv_cache),
            "kv_cache_expanded_bytes": self.kv_cache_expanded,
            "kv_kinds_bytes": dict(self.kv_kinds),
            "prefill_chunk_tokens": self.chunk,
            "prefill_chunk_bytes": self.prefill_chunk,
            "logits_whole_bytes": self.logits_whole,
            "logits_last_bytes": self.logits_last,
            "total_bytes": self.total(),
        }


def kv_cache_bytes(
    shape: ModelShape, length: int, dtype: str = "bfloat16", *, batch: int = 1, expanded: bool = False
) -> int:
    """Keys and values of every layer; a sliding layer keeps its window at most.

    With latent attention that is the latent, as transformers 5, vLLM and SGLang keep it; `expanded` counts every
    head's key and value instead, as programs without a latent cache do.
    """
    windowed = min(length, shape.window) if shape.window else length
    tokens = shape.full_layers * length + shape.window_layers * windowed
    each = shape.expanded_kv_elements if expanded else shape.kv_elements
    return int(batch * tokens * each * BYTES[dtype])


def inference_memory(
    shape: ModelShape,
    length: int,
    *,
    dtype: str = "bfloat16",
    batch: int = 1,
    chunk: int = 2048,
    stream_window: int | None = None,
) -> InferenceMemory:
    """Memory to read `length` tokens and go on from there; `stream_window` counts an endless stream as well."""
    chunk = min(chunk, length)
    return InferenceMemory(
        length=length,
        batch=batch,
        weights=shape.weight_bytes(dtype),
        kv_cache={
            kind: kv_cache_bytes(shape, length, kind, batch=batch)
            for kind in dict.fromkeys(("bfloat16", "int8", "int4", dtype))
        },
        kv_cache_expanded=kv_cache_bytes(shape, length, dtype, batch=batch, expanded=True),
        chunk=chunk,
        prefill_chunk=int(batch * chunk * _live_elements(shape) * BYTES[dtype]),
        logits_whole=batch * length * shape.vocab_size * 4,
        logits_last=batch * shape.vocab_size * 4,
        kv_kinds={
            kind: batch * size
            for kind, size in kept_bytes(shape, length, dtype=dtype, stream_window=stream_window).items()
        },
        dtype=dtype,
    )


@dataclass(frozen=True)
class TrainingSetting:
    """How one training step is held in memory.

    `master` is the type of a second copy of the weights, kept where it is wider than `dtype`. `chunked_loss` makes
    logits for `loss_chunk` tokens at a time. `lora_rank` above 0 trains adapters only, and `stored` packs the weights
    below them while they are loaded. `shards` devices divide the weights as FSDP does, `sharing` of them one sequence
    as context parallelism does.
    """

    dtype: str = "bfloat16"
    master: str | None = "float32"
    checkpointing: bool = True
    offload: Offload = "none"
    chunked_loss: bool = True
    loss_chunk: int = 1024
    lora_rank: int = 0
    shards: int = 1
    sharing: int = 1
    stored: Stored | None = None

    def to_json(self) -> dict[str, Any]:
        """What `plan --json` says beside the bytes."""
        return {
            "dtype": self.dtype,
            "checkpointing": self.checkpointing,
            "offload": self.offload,
            "chunked_loss": self.chunked_loss,
            "lora_rank": self.lora_rank,
            "packed": None if self.stored is None else self.stored.method,
            "shards": self.shards,
            "sharing": self.sharing,
        }


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
    setting: TrainingSetting

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
            **self.setting.to_json(),
        }


def training_memory(shape: ModelShape, tokens: int, setting: TrainingSetting | None = None) -> TrainingMemory:
    """Memory of one training step with AdamW.

    Weights and gradients in `dtype`, two float32 moments, and the master copy. LoRA keeps only its adapters' share of
    the last three; packed weights below them keep their bits, and each device holds all of them. Sharding divides
    weights, gradients and optimiser, leaving one gathered layer; sharing divides the tokens, leaving one layer's keys
    and values of the whole sequence, with their gradients.
    """
    setting = setting or TrainingSetting()
    width, parameters, lora = BYTES[setting.dtype], shape.num_parameters, setting.lora_rank
    trained = lora_parameters(shape, lora) if lora else parameters
    keeps_master = setting.master is not None and BYTES[setting.master] > width
    # LoRA's adapters are small and kept in float32; the frozen weights have neither gradient nor moments.
    gradient_width = 4.0 if lora else width
    stored = setting.stored or (shape.stored if shape.stored is not None and shape.stored.packed else None)
    adapters = trained * 4.0 if lora else 0.0
    whole = setting.shards == 1 or bool(lora and stored is not None)
    shards = 1 if whole else setting.shards
    if lora and stored is not None:
        # A layer is widened for its product, one matrix at a time.
        largest = shape.hidden_size * max(shape.intermediate_size, shape.query_size)
        weights = shape.weight_bytes(setting.dtype, stored) + adapters + largest * width
    else:
        weights = (parameters * width + adapters) / shards
    if shards > 1:
        # What is gathered whole at a time: a layer, or the embeddings, which are a part of their own.
        weights += max(shape.layer_parameters, shape.embedding_parameters) * width
    # AdamW's two in float32, and the master copy.
    moments = trained * (8.0 + (4.0 if keeps_master and not lora else 0.0))
    share = -(-tokens // setting.sharing)
    activations, offloaded = _activations(shape, share, setting)
    if setting.sharing > 1:
        activations += 2 * tokens * (shape.key_size + shape.value_size) * width
    return TrainingMemory(
        tokens=tokens,
        weights=int(weights),
        gradients=int(trained * gradient_width / shards),
        optimiser=int(moments / shards),
        activations=int(activations),
        loss=_loss_bytes(shape, share, setting),
        offloaded=int(offloaded),
        setting=setting,
    )


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Adapters on the four attention projections: rank * (inputs + outputs) each."""
    widths = shape.query_size + shape.key_size + shape.value_size + shape.output_size
    return shape.num_layers * rank * (4 * shape.hidden_size + widths)


def _attention_elements(shape: ModelShape) -> int:
    """Query, key, value and output of one layer for a token, heads expanded."""
    return shape.query_size + shape.key_size + shape.value_size + shape.output_size


def _live_elements(shape: ModelShape) -> int:
    """Elements a token that are alive at once in one layer's forward: residual, normed input, q, k, v, output, MLP."""
    mlp = shape.mlp_projections * _mlp_width(shape)
    # Attention and feed-forward run one after the other and are never alive together.
    return 3 * shape.hidden_size + max(_attention_elements(shape), mlp)


def _saved_elements(shape: ModelShape) -> int:
    """Elements a token that one layer keeps for its backward pass.

    Two norms keep their input and their normalised copy (4 hidden); attention keeps q, k, v after rotation, its output
    and the projections' input (1 hidden); a gated MLP keeps gate, up, activation and product, one without a gate its
    projection and activation.
    """
    mlp = 2 * (shape.mlp_projections - 1) * _mlp_width(shape)
    return 5 * shape.hidden_size + _attention_elements(shape) + mlp


def _mlp_width(shape: ModelShape) -> int:
    """Feed-forward width that one token passes through."""
    if shape.experts is None:
        return shape.intermediate_size
    routed = max(shape.experts.active, 1) * shape.experts.size + shape.experts.shared
    # The widest layer counts: a model may have dense ones between those with experts.
    return routed if shape.expert_layers == shape.num_layers else max(routed, shape.intermediate_size)


def _activations(shape: ModelShape, tokens: int, setting: TrainingSetting) -> tuple[float, float]:
    """(bytes on the device, bytes elsewhere). Checkpoints are one hidden state a layer; one layer is rebuilt whole."""
    width = BYTES[setting.dtype]
    layer = tokens * _saved_elements(shape) * width
    if not setting.checkpointing:
        held, aside = shape.num_layers * layer, 0.0
        if setting.offload != "none":
            held, aside = 2 * layer, (shape.num_layers - 2) * layer
        return held, max(aside, 0.0)
    checkpoint = tokens * shape.hidden_size * width
    if setting.offload == "none":
        return shape.num_layers * checkpoint + layer, 0.0
    return 2 * checkpoint + layer, shape.num_layers * checkpoint


def _loss_bytes(shape: ModelShape, tokens: int, setting: TrainingSetting) -> int:
    """Logits in the weights' type, their float32 copy and its gradient; chunked, for one chunk only, plus the gradient
    of the hidden states."""
    width, chunked = BYTES[setting.dtype], setting.chunked_loss
    held = min(tokens, setting.loss_chunk) if chunked else tokens
    hidden = tokens * shape.hidden_size * width if chunked else 0.0
    return int(held * shape.vocab_size * (width + 8.0) + hidden)
