"""A GGUF file made from a safetensors checkpoint, for architectures whose graph in llama.cpp is the plain one.

Every tensor passes through once, as bytes; nothing is loaded whole. Others are for llama.cpp's own converter.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.checkpoint.weights import check_shard, find_weights
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.config import ARCHITECTURES
from ropewalk.models.gguf.file import F32, Key, gguf_package
from ropewalk.models.structure.view import view_of
from ropewalk.runtimes.gguf.schedule import rope_pieces, with_rope
from ropewalk.runtimes.gguf.vocabulary import vocabulary_keys
from ropewalk.runtimes.gguf.write import Piece, key_of, write_gguf

# model_type -> whether q and k rows are permuted from halves to neighbours, as llama.cpp's rotation of it wants.
CONVERTIBLE = {"llama": True, "mistral": True, "qwen2": False, "qwen3": False}
_KINDS = {"F32": 0, "F16": 1, "BF16": 30}
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
TYPES = ("auto", "float32", "float16", "bfloat16")
_OWN_CONVERTER = "convert it with llama.cpp's convert_hf_to_gguf.py and pass the file with --gguf"
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


@dataclass(frozen=True)
class _Source:
    """Where a tensor's bytes lie in its shard."""

    shard: Path
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]


def convert(
    folder: Path,
    target: Path,
    facts: ModelFacts,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Sequence[float]],
    *,
    dtype: str = "auto",
) -> None:
    """Write the checkpoint in `folder` as a GGUF file with a schedule; `dtype` is that of its matrices."""
    check_convertible(facts)
    sources = _sources(folder)
    wanted = _dtype(sources, dtype)
    pieces = [*rope_pieces(tensors), *_pieces(facts, sources, wanted)]
    keys = [*_model_keys(facts, folder, wanted), *vocabulary_keys(folder, facts)]
    write_gguf(target, with_rope(keys, ARCHITECTURES[facts.model_type], metadata), pieces)


def check_convertible(facts: ModelFacts) -> None:
    """RopewalkError for architectures and quantisations that this conversion does not know."""
    if facts.model_type not in CONVERTIBLE:
        raise RopewalkError(
            f"model_type={one_line(facts.model_type, 40)!r} is not converted here "
            f"({', '.join(CONVERTIBLE)} are)",
            hint=_OWN_CONVERTER,
        )
    if facts.config.get("quantization_config"):
        raise RopewalkError(
            "the checkpoint is quantised, and GGUF has formats of its own", hint=_OWN_CONVERTER
        )


def _sources(folder: Path) -> dict[str, _Source]:
    found: dict[str, _Source] = {}
    for shard in find_weights(folder).shards:
        header = check_shard(shard, folder)
        with open(shard, "rb") as stream:
            start = 8 + struct.unpack("<Q", stream.read(8))[0]
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in _KINDS:
                raise RopewalkError(
                    f"the tensor {one_line(name, 80)} is {entry['dtype']}, not a plain float",
                    hint=_OWN_CONVERTER,
                )
            shape = tuple(int(size) for size in entry["shape"])
            found[name] = _Source(shard, start + begin, end - begin, entry["dtype"], shape)
    return found


def _dtype(sources: Mapping[str, _Source], dtype: str) -> str:
    named = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    if dtype != "auto":
        return named[dtype]
    matrices = [source.dtype for source in sources.values() if len(source.shape) > 1]
    return max(set(matrices), key=matrices.count)


def _pieces(facts: ModelFacts, sources: Mapping[str, _Source], wanted: str) -> list[Piece]:
    gguf = gguf_package()
    number = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[facts.model_type]]
    names = gguf.get_tensor_name_map(number, facts.num_layers)
    made = []
    for name, source in sources.items():
        if name == "lm_head.weight" and facts.tie_embeddings:
            continue
        if name.endswith("rotary_emb.inv_freq"):
            continue
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise RopewalkError(f"the tensor {one_line(name, 80)} has no name in GGUF", hint=_OWN_CONVERTER)
        made.append(_piece(facts, mapped, name, source, wanted))
    return made


def _piece(facts: ModelFacts, mapped: str, name: str, source: _Source, wanted: str) -> Piece:
    dtype = wanted if len(source.shape) > 1 else "F32"
    heads = 0
    if CONVERTIBLE[facts.model_type] and ".q_proj." in name:
        heads = facts.num_attention_heads
    elif CONVERTIBLE[facts.model_type] and ".k_proj." in name:
        heads = facts.num_kv_heads

    def copy(stream: BinaryIO) -> None:
        with open(source.shard, "rb") as origin:
            origin.seek(source.start)
            raw = origin.read(source.size)
        stream.write(_converted(raw, source, dtype, heads))

    count = int(np.prod(source.shape, dtype=np.int64))
    size = count * _WIDTH[dtype]
    # GGUF lists the fastest dimension first.
    dims = tuple(reversed(source.shape)) or (1,)
    return Piece(mapped, dims, _KINDS[dtype], size, copy)


def _converted(raw: bytes, source: _Source, dtype: str, heads: int) -> bytes:
    """A tensor's bytes in another float type, its rows permuted where `heads` is not 0."""
    storage = np.frombuffer(raw, dtype="<u4" if _WIDTH[source.dtype] == 4 else "<u2").reshape(source.shape)
    if heads:
        rest = source.shape[1:]
        half = source.shape[0] // heads // 2
        storage = storage.reshape(heads, 2, half, *rest).swapaxes(1, 2).reshape(source.shape)
    storage = np.ascontiguousarray(storage)
    return storage.tobytes() if dtype == source.dtype else _cast(storage, source.dtype, dtype).tobytes()


def _cast(storage: np.ndarray, before: str, after: str) -> np.ndarray:
    if before == "BF16":
        values = (storage.astype("<u4") << 16).view("<f4")
    else:
        values = storage.view("<f4" if before == "F32" else "<f2").astype("<f4")
    if after == "F32":
        return values
    if after == "F16":
        return values.astype("<f2")
    bits = values.view("<u4")
    # Round to nearest, ties to even; a NaN keeps its quiet bit.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2")


def _model_keys(facts: ModelFacts, folder: Path, wanted: str) -> list[Key]:
    view, name = view_of(facts.config), ARCHITECTURES[facts.model_type]
    if facts.intermediate_size is None or facts.vocab_size is None:
        raise RopewalkError("config.json gives no intermediate_size or vocab_size", hint=_OWN_CONVERTER)
    epsilon = view.get("rms_norm_eps")
    own: dict[str, Any] = {
        "block_count": facts.num_layers,
        "context_length": facts.max_position_embeddings,
        "embedding_length": facts.hidden_size,
        "feed_forward_length": facts.intermediate_size,
        "attention.head_count": facts.num_attention_heads,
        "attention.head_count_kv": facts.num_kv_heads,
        "attention.key_length": facts.head_dim,
        "attention.value_length": facts.head_dim,
        "attention.layer_norm_rms_epsilon": float(1e-6 if epsilon is None else epsilon),
        "rope.dimension_count": facts.geometry.rotary_dim,
        "rope.freq_base": float(facts.geometry.rope_theta),
        "vocab_size": facts.vocab_size,
    }
    general = {
        "general.architecture": name,
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.file_type": _FILE_TYPES[wanted],
        "general.quantization_version": 2,
    }
    return [
        key_of(key, value) for key, value in (general | {f"{name}.{k}": v for k, v in own.items()}).items()
    ]


assert _KINDS["F32"] == F32
