"""A GGUF file made from a safetensors checkpoint, for the families that `families.json` describes.

Every tensor passes through once, as bytes; nothing is loaded whole. What the table does not know is refused by name:
a tensor too many as one too few. Others are for llama.cpp's own converter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.config import ARCHITECTURES
from ropewalk.models.gguf.file import Key, gguf_package
from ropewalk.runtimes.gguf.families import OWN_CONVERTER, Family, check_needs, family_of, model_keys
from ropewalk.runtimes.gguf.schedule import rope_pieces, with_rope
from ropewalk.runtimes.gguf.tensors import (
    Sizes,
    Source,
    Step,
    main_type,
    pieces,
    plan,
    read_sources,
    take_numbers,
)
from ropewalk.runtimes.gguf.vocabulary import vocabulary_keys
from ropewalk.runtimes.gguf.write import key_of, write_gguf

TYPES = ("auto", "float32", "float16", "bfloat16")
_NAMED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# llama.cpp's numbers for what a file mostly holds; they are not those of single tensors (BF16 is 30 there).
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


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
    family = family_of(facts)
    # The target, not config.json's window: only prompts longer than a sliding window miss it where llama.cpp has none.
    check_needs(family, facts, int(metadata.get("context_length", facts.max_position_embeddings)))
    own = model_keys(family, facts)
    sources = read_sources(folder, family)
    # Before the plan, which refuses them: tensors that become metadata have no name of their own in GGUF.
    numbers = take_numbers(sources, family, facts.num_layers)
    wanted = main_type(sources) if dtype == "auto" else _NAMED[dtype]
    steps = _steps(family, facts, sources, int(own.get("expert_count", 0)))
    # Before a byte is written: llama.cpp would complain only when it loads the finished file.
    _check_names(family, facts, own, [name for step in steps for name in step.targets])
    name = ARCHITECTURES[facts.model_type]
    general = {
        "general.architecture": name,
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.file_type": _FILE_TYPES[wanted],
        "general.quantization_version": 2,
    }
    listed = general | {f"{name}.{key}": value for key, value in own.items()} | numbers
    keys: list[Key] = [key_of(key, value) for key, value in listed.items()]
    keys += vocabulary_keys(folder, facts)
    made = [*rope_pieces(tensors), *pieces(steps, Sizes.of(facts), wanted)]
    write_gguf(target, with_rope(keys, name, metadata), made)


def _steps(family: Family, facts: ModelFacts, sources: Mapping[str, Source], experts: int) -> list[Step]:
    gguf = gguf_package()
    number = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[facts.model_type]]
    names = gguf.get_tensor_name_map(number, facts.num_layers)

    def rename(name: str) -> str | None:
        # gguf's map lists names without their suffix and puts it back.
        found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    steps = plan(sources, family.rules, rename, experts)
    if facts.tie_embeddings or family.output == "tied":
        # The class reads the embedding in its place, whatever a checkpoint holds besides.
        steps = [step for step in steps if step.targets != (_OUTPUT,)]
        # The graph of such a family asks for an output matrix, tied or not.
        if family.output == "own":
            embedding = next((step for step in steps if step.targets == (_EMBEDDING,)), None)
            steps += [] if embedding is None else [Step(embedding.sources, embedding.operation, (_OUTPUT,))]
    return steps


def _check_names(family: Family, facts: ModelFacts, own: Mapping[str, Any], names: Sequence[str]) -> None:
    """RopewalkError by name for a tensor that llama.cpp's graph wants and that is not there, or the other way round."""
    leading = int(own.get("leading_dense_block_count", 0))
    wanted, allowed = {_full(name) for name in family.whole}, set()
    linear = set(facts.layers.other)
    for layer in range(facts.num_layers):
        row = family.dense if layer < leading and family.dense else family.layer
        row = family.other if layer in linear else row
        wanted |= {_full(f"blk.{layer}.{name}") for name in row}
        allowed |= {_full(f"blk.{layer}.{name}") for name in family.may}
    if family.output == "own" or (family.output == "either" and not facts.tie_embeddings):
        wanted.add(_OUTPUT)
    # Experts that lie there both apart and fused would make one tensor twice. Counting is quadratic, so only then.
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    missing, strange = sorted(wanted - set(names)), sorted(set(names) - wanted - allowed)
    if missing or strange or twice:
        what = "misses" if missing else "has" if strange else "has twice"
        name = (missing or strange or twice)[0]
        unknown = "" if missing or twice else f", which llama.cpp's {family.name} does not read"
        raise RopewalkError(
            f"the checkpoint {what} the tensor {one_line(name, 80)}{unknown}",
            hint="fetch the checkpoint again" if missing or twice else OWN_CONVERTER,
        )


def _full(name: str) -> str:
    if name.endswith("."):
        return name[:-1]
    return name if name.endswith((".bias", ".weight")) else f"{name}.weight"
