"""A schedule written into GGUF metadata and tensors, over an existing file or in a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.config import ARCHITECTURES, ROPE_TENSORS
from ropewalk.models.gguf.file import GgufFile, Key, read_gguf
from ropewalk.runtimes.gguf.write import Piece, copied, floats, key_of, write_gguf


def rewrite(
    source: Path,
    target: Path,
    facts: ModelFacts,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Sequence[float]],
) -> None:
    """Copy a GGUF file with a schedule in place of whatever scaling it holds; the source is only read.

    Refused: a cut or doubled file, a part of a split one, another architecture or another model's shape.
    """
    found = read_gguf(source)
    check_same_model(found, facts)
    if target.resolve() == Path(source).resolve():
        raise RopewalkError(f"{target} is the source itself", hint="write the copy elsewhere")
    keys = with_rope(found.keys, found.architecture, metadata)
    # llama.cpp takes the factor tensors that it finds, so an older schedule's would act beside the new keys.
    pieces = [piece for piece in copied(found) if piece.name not in ROPE_TENSORS]
    # Keys are copied as bytes, general.alignment among them: the padding must stay what it says.
    write_gguf(
        target, keys, [*rope_pieces(tensors), *pieces], alignment=found.alignment, version=found.version
    )


def with_rope(keys: Sequence[Key], architecture: str, metadata: Mapping[str, Any]) -> list[Key]:
    """Metadata with every older scaling removed and the given keys in its place; a left-over would still be read."""
    given = {f"{architecture}.{name}": value for name, value in metadata.items()}
    # rope.scale_linear is the key of files from before rope.scaling, and is still read.
    stale = (f"{architecture}.rope.scaling.", f"{architecture}.rope.scale_linear")
    kept = [key for key in keys if key.name not in given and not key.name.startswith(stale)]
    return kept + [key_of(name, value) for name, value in given.items() if value is not None]


def rope_pieces(tensors: Mapping[str, Sequence[float]]) -> list[Piece]:
    """The factor tensors."""
    return [floats(name, values) for name, values in tensors.items()]


def check_same_model(found: GgufFile, facts: ModelFacts) -> None:
    """RopewalkError where the file is not this model, as far as architecture and shape tell."""
    # A merged file keeps the key, with 0 in it.
    if found.get("split.count") not in (None, 0, 1):
        raise RopewalkError(
            f"{found.path} is one part of {found.get('split.count')}",
            hint="merge the parts first: llama-gguf-split --merge",
        )
    wanted = ARCHITECTURES.get(facts.model_type) or ARCHITECTURES.get(facts.text_type)
    if wanted is None or found.architecture != wanted:
        raise RopewalkError(
            f"{found.path} holds the architecture {one_line(found.architecture, 40)!r}; model_type "
            f"{one_line(facts.text_type, 40)!r} is {wanted or 'not one that is known by name'} there",
            hint="give the GGUF file that was made from this very model",
        )
    shape = {
        "block_count": facts.num_layers,
        "embedding_length": facts.hidden_size,
        "attention.head_count": facts.num_attention_heads,
        "rope.dimension_count": facts.geometry.rotary_dim,
    }
    for name, expected in shape.items():
        value = found.own(name)
        # llama.cpp's converter counts a layer that predicts further tokens among the blocks.
        if value is not None and value != expected and not (name == "block_count" and value == expected + 1):
            raise RopewalkError(
                f"{found.path} says {name}={value} where the model has {expected}",
                hint="give the GGUF file that was made from this very model",
            )
