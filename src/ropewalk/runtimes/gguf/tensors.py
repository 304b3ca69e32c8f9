"""A checkpoint's tensors on their way into a GGUF file: renamed, rearranged, joined, split, cast; one at a time.

Every operation gets an array and gives those that its rule names, as plain numpy; shapes are found by trying it on an
array that takes no memory. Tensors of one dimension are float32 before an operation sees them, larger ones are storage:
operations move their elements and never compute with them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.checkpoint.weights import check_shard, find_weights
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.file import F32
from ropewalk.models.structure.view import view_of
from ropewalk.runtimes.gguf.families import OWN_CONVERTER, Family, Rule, table
from ropewalk.runtimes.gguf.write import Piece

# ggml's numbers for the types of single tensors.
KINDS = {"F32": F32, "F16": 1, "BF16": 30}
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Source:
    """Where a tensor's bytes lie in its shard."""

    name: str
    shard: Path
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Its storage, as unsigned numbers of its width."""
        with open(self.shard, "rb") as origin:
            origin.seek(self.start)
            raw = origin.read(self.size)
        # numpy has no bfloat16; what is only moved needs no arithmetic.
        return np.frombuffer(raw, dtype="<u4" if _WIDTH[self.dtype] == 4 else "<u2").reshape(self.shape)


@dataclass(frozen=True)
class Sizes:
    """The sizes that operations speak of."""

    heads: int
    kv_heads: int
    head_dim: int
    nope: int
    # Of linear attention: key heads, value heads, and the rows of all queries and keys together.
    groups: int = 1
    values: int = 1
    keys: int = 0

    @classmethod
    def of(cls, facts: ModelFacts) -> Sizes:
        """Those of a model."""
        view = view_of(facts.config)
        nope, groups = int(view.get("qk_nope_head_dim") or 0), int(view.get("linear_num_key_heads") or 1)
        values, keys = int(view.get("linear_num_value_heads") or 1), int(view.get("linear_key_head_dim") or 0)
        heads = (facts.num_attention_heads, facts.num_kv_heads, facts.head_dim)
        return cls(*heads, nope, groups, values, 2 * groups * keys)


Operation = Callable[..., list[np.ndarray]]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    """Register an operation under its name; its words behind the name come as further arguments."""
    OPERATIONS[function.__name__] = function
    return function


@operation
def same(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """As it is."""
    return [array]


@operation
def plus_one(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """A norm that is stored without the 1 which its class adds."""
    assert array.ndim == 1, array.shape
    return [array + np.ones((), array.dtype)]


@operation
def neighbours(array: np.ndarray, sizes: Sizes, count: str) -> list[np.ndarray]:
    """Rows of a head's two halves side by side: llama.cpp rotates neighbours where transformers rotates halves."""
    split = array.reshape(getattr(sizes, count), 2, -1, *array.shape[1:])
    return [split.swapaxes(1, 2).reshape(array.shape)]


@operation
def halves(array: np.ndarray, sizes: Sizes, axis: str) -> list[np.ndarray]:
    """Two matrices that lie one behind the other."""
    return list(np.split(array, 2, axis=int(axis)))


@operation
def turned(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """Stored with inputs first."""
    return [array.swapaxes(-1, -2)]


@operation
def alternate(array: np.ndarray, sizes: Sizes, way: str) -> list[np.ndarray]:
    """Gate and up in alternating columns, which become rows where they were stored with inputs first."""
    parts = [array[..., 0::2], array[..., 1::2]]
    return [part.swapaxes(-1, -2) for part in parts] if way == "turned" else parts


@operation
def by_head(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """Query, key and value of each head in turn: all queries first, then all keys, then all values."""
    split = array.reshape(sizes.heads, 3, sizes.head_dim, *array.shape[1:])
    return [split.swapaxes(0, 1).reshape(array.shape)]


@operation
def by_group(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """The queries of a key's group, the key, the value: all queries first, then all keys, then all values."""
    split = array.reshape(sizes.kv_heads, -1, sizes.head_dim, *array.shape[1:])
    parts = [split[:, :-2], split[:, -2:-1], split[:, -1:]]
    return [np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])]


@operation
def latent(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """What makes keys and values of the latent vector, a matrix a head each; that of the keys turned."""
    # llama.cpp multiplies the query by the key's matrix and attends over the latent itself, so it is needed turned.
    split = array.reshape(sizes.heads, -1, array.shape[-1])
    return [split[:, : sizes.nope].swapaxes(1, 2), split[:, sizes.nope :]]


@operation
def tiled(array: np.ndarray, sizes: Sizes, axis: str, skipped: str = "") -> list[np.ndarray]:
    """Value heads of linear attention: the first of every key, then the second, where they lay key by key; queries and
    keys before them stay."""
    # ggml repeats keys over value heads as 0 1 0 1, transformers as 0 0 1 1.
    at = int(axis)
    before, values = np.split(array, [sizes.keys if skipped else 0], axis=at)
    moved = np.moveaxis(values, at, 0)
    heads = moved.reshape(sizes.groups, sizes.values // sizes.groups, -1, *moved.shape[1:])
    mixed = np.moveaxis(heads.swapaxes(0, 1).reshape(moved.shape), 0, at)
    return [np.concatenate([before, mixed], axis=at)]


@operation
def kernel(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """A convolution of each channel by itself, without the axis of one."""
    return tiled(array.reshape(array.shape[0], array.shape[-1]), sizes, "0", "keys")


@operation
def decay(array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    """Linear attention's forgetting, stored as a logarithm: its negative exponential, head by head."""
    assert array.ndim == 1, array.shape
    return [-np.exp(part) for part in tiled(array, sizes, "0")]


def read_sources(folder: Path, family: Family) -> dict[str, Source]:
    """Every tensor of a checkpoint's text model by name, without the buffers that no model reads."""
    found: dict[str, Source] = {}
    unused = tuple(f".{name}" for name in table()["unused"])
    for shard in find_weights(folder).shards:
        header = check_shard(shard, folder)
        with open(shard, "rb") as stream:
            # Eight bytes of length and the header stand before the data, from which offsets count.
            start = 8 + struct.unpack("<Q", stream.read(8))[0]
        for name, entry in header.items():
            if name == "__metadata__" or name.endswith(unused) or name.startswith(family.beside):
                continue
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in KINDS:
                raise RopewalkError(
                    f"the tensor {one_line(name, 80)} is {entry['dtype']}, not a plain float",
                    hint=OWN_CONVERTER,
                )
            shape = tuple(int(size) for size in entry["shape"])
            # With a composite's prefix and without it, two names may mean one tensor.
            own = _inside(name, family)
            if own in found:
                raise RopewalkError(
                    f"the checkpoint has twice the tensor {one_line(own, 80)}", hint="fetch it again"
                )
            found[own] = Source(own, shard, start + begin, end - begin, entry["dtype"], shape)
    return found


def _inside(name: str, family: Family) -> str:
    """A name as a text model alone has it."""
    for long, short in family.inside.items():
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


def take_numbers(sources: dict[str, Source], family: Family, num_layers: int) -> dict[str, list[float]]:
    """Lists of metadata, a number a layer, out of tensors that hold nothing else; they are taken out of `sources`."""
    found: dict[str, list[float]] = {}
    for key, pattern in family.numbers.items():
        values = []
        for layer in range(num_layers):
            name = pattern.format(layer=layer)
            source = sources.pop(name, None)
            if source is None or int(np.prod(source.shape, dtype=np.int64)) != 1:
                raise RopewalkError(
                    f"the checkpoint has no {one_line(name, 80)} of one number",
                    hint="fetch the checkpoint again",
                )
            values.append(float(cast(source.read(), source.dtype, "F32").reshape(-1)[0]))
        found[key] = values
    return found


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """A name with {words}: numbers for layer and expert, otherwise anything without a dot."""
    parts = re.split(r"\{(\w+)\}", name)
    text = "".join(
        re.escape(part) if at % 2 == 0 else f"(?P<{part}>{_NUMBERS.get(part, '[^.]*')})"
        for at, part in enumerate(parts)
    )
    return re.compile(text)


_NUMBERS = {"layer": "[0-9]+", "expert": "[0-9]+"}


@dataclass(frozen=True)
class Step:
    """One operation on one tensor, or on one a expert in their order, and the names of what comes out."""

    sources: tuple[Source, ...]
    operation: str
    targets: tuple[str, ...]


def plan(
    sources: Mapping[str, Source], rules: Sequence[Rule], rename: Callable[[str], str | None], experts: int
) -> list[Step]:
    """What becomes of each tensor; RopewalkError for one without a name in GGUF and for experts not all there."""
    steps: list[Step] = []
    stacks: dict[tuple[str, tuple[str, ...]], dict[int, Source]] = {}
    for source in sources.values():
        rule, words = _rule_of(source.name, rules)
        made = rule.operation if rule else "same"
        if rule and rule.targets:
            targets = tuple(target.format(**words) for target in rule.targets)
        else:
            name = rename(source.name)
            if name is None:
                raise RopewalkError(
                    f"the tensor {one_line(source.name, 80)} has no name in GGUF", hint=OWN_CONVERTER
                )
            targets = (name,)
        if "expert" in words:
            stacks.setdefault((made, targets), {})[int(words["expert"])] = source
        else:
            steps.append(Step((source,), made, targets))
    for (made, targets), members in stacks.items():
        if sorted(members) != list(range(experts)):
            missing = sorted(set(range(experts)) - set(members)) or sorted(set(members) - set(range(experts)))
            raise RopewalkError(
                f"{targets[0]} is made of {experts} experts, and number {missing[0]} is missing or too many",
                hint="fetch the checkpoint again, or correct the number of experts in config.json",
            )
        steps.append(Step(tuple(members[number] for number in range(experts)), made, targets))
    return steps


def _rule_of(name: str, rules: Sequence[Rule]) -> tuple[Rule | None, dict[str, str]]:
    for rule in rules:
        for pattern in rule.names:
            found = _pattern(pattern).fullmatch(name)
            if found:
                return rule, found.groupdict()
    return None, {}


def pieces(steps: Iterable[Step], sizes: Sizes, wanted: str) -> list[Piece]:
    """The tensors to write; matrices in the `wanted` type, vectors, biases and routers in float32."""
    return [piece for step in steps for piece in _pieces(step, sizes, wanted)]


def _pieces(step: Step, sizes: Sizes, wanted: str) -> list[Piece]:
    first = step.sources[0]
    for other in step.sources:
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise RopewalkError(
                f"{one_line(other.name, 80)} has not the shape and type of {one_line(first.name, 80)}",
                hint="fetch the checkpoint again",
            )
    try:
        # Strides of nothing: the shape of a tensor of any size, in a byte.
        shapes = [part.shape for part in _applied(step, np.broadcast_to(np.uint8(0), first.shape), sizes)]
    except ValueError as error:
        raise RopewalkError(
            f"{one_line(first.name, 80)} is {list(first.shape)}, which does not go with config.json's heads",
            hint="the configuration belongs to another model, or the checkpoint does",
        ) from error
    return [_piece(step, sizes, at, shape, wanted) for at, shape in enumerate(shapes)]


def _piece(step: Step, sizes: Sizes, at: int, shape: tuple[int, ...], wanted: str) -> Piece:
    name, first = step.targets[at], step.sources[0]
    alone = len(first.shape) == 1
    # ggml adds biases in float32; a router that is rounded sends tokens to other experts.
    dtype = "F32" if alone or name.endswith((".bias", "ffn_gate_inp.weight")) else wanted
    count = len(step.sources)
    full = shape if count == 1 else (count, *shape)

    def copy(stream: BinaryIO) -> None:
        # A fused tensor is read again for each of its parts: time is cheaper here than holding the others.
        for source in step.sources:
            array = cast(source.read(), source.dtype, "F32") if alone else source.read()
            part = np.ascontiguousarray(_applied(step, array, sizes)[at])
            try:
                stream.write(part.tobytes() if alone else cast(part, source.dtype, dtype).tobytes())
            except FloatingPointError as error:
                raise RopewalkError(
                    f"{one_line(source.name, 80)} has numbers beyond 65504, the largest of float16",
                    hint="write the file in bfloat16 or float32 (--gguf-type)",
                ) from error

    size = int(np.prod(full, dtype=np.int64)) * _WIDTH[dtype]
    # GGUF lists the fastest dimension first.
    return Piece(name, tuple(reversed(full)) or (1,), KINDS[dtype], size, copy)


def _applied(step: Step, array: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
    name, *words = step.operation.split()
    made = OPERATIONS[name](array, sizes, *words)
    assert len(made) == len(step.targets), step
    return made


def cast(storage: np.ndarray, before: str, after: str) -> np.ndarray:
    """Numbers of one float type in another, from storage to storage or float32; FloatingPointError beyond float16."""
    if before == after:
        return storage.view("<f4") if after == "F32" else storage
    if before == "BF16":
        # bfloat16 is the upper half of a float32.
        values = (storage.astype("<u4") << 16).view("<f4")
    else:
        values = storage.view("<f4" if before == "F32" else "<f2").astype("<f4")
    if after == "F32":
        return values
    if after == "F16":
        # Beyond 65504 a number would become infinite, and every logit with it.
        with np.errstate(over="raise"):
            return values.astype("<f2")
    bits = values.view("<u4")
    # Round to nearest, ties to even; a NaN keeps its quiet bit.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2")


def main_type(sources: Mapping[str, Source]) -> str:
    """The type that most matrices have."""
    matrices = [source.dtype for source in sources.values() if len(source.shape) > 1]
    if not matrices:
        raise RopewalkError(
            "the checkpoint has no matrix, whose type the file's would be", hint="fetch the checkpoint again"
        )
    # Sorted, so that a tie falls the same way in every run.
    return max(sorted(set(matrices)), key=matrices.count)
