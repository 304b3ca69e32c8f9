"""Who runs the step: one process, DDP, or FSDP2. What was asked for is what runs, or the run stops and says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ropewalk.attention.options import Way
from ropewalk.attention.sharing import Sharing, check_sharing
from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.evaluation.work.processes import join_group
from ropewalk.training.parts.layers import decoder_layers
from ropewalk.training.recipe.recipe import EnginePart, Recipe

Value = TypeVar("Value")
LAUNCH = (
    "accelerate launch --num_processes 8 -m ropewalk train RECIPE; on CPUs torchrun --nproc_per_node 2 -m ..."
)


@dataclass(frozen=True)
class Engine:
    """The engine of a run and this process's place in it."""

    name: str
    rank: int = 0
    world: int = 1
    sharing: Sharing | None = None
    accelerator: Any = field(default=None, repr=False)
    shards: int | None = None

    @property
    def data_rank(self) -> int:
        """The place of this process's row among the rows that are trained at the same time."""
        return self.rank // (self.sharing.size if self.sharing is not None else 1)

    @property
    def data_world(self) -> int:
        """How many rows are trained at the same time: processes that share one count once."""
        return self.world // (self.sharing.size if self.sharing is not None else 1)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the main process, on every process; its failure is everybody's."""
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_main:
            try:
                box[0] = make()
            except Exception as error:
                failure, box[1] = error, str(error)
        # A failure travels too, as text: without it the others would wait for ever in their next collective call.
        torch.distributed.broadcast_object_list(box, src=0)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise RopewalkError(f"the main process stopped: {box[1]}", hint="see its message")
        value: Value = box[0]
        return value

    def shard(self, model: nn.Module) -> None:
        """Under fsdp2, split every decoder layer and what is left over the processes, in place.

        In mixed precision a layer travels in bfloat16, in which its products are computed anyway; gradients are summed
        in float32, and the residual stream, embeddings and the last norm keep that too.
        """
        if self.name != "fsdp2":
            return
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy()
        if self.accelerator.mixed_precision == "bf16":
            # Casting the inputs would round the float32 residual stream at every layer.
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        mesh = self._mesh()
        for layer in decoder_layers(model):
            # What is gathered together has one type: float32 adapters beside bfloat16 weights are a group of their own.
            apart = _of_other_type(layer)
            if apart:
                fully_shard(apart, mesh=mesh)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        # Last, from the inside out: the outermost group is made of the parameters that no layer has taken.
        fully_shard(model, mesh=mesh)

    def _mesh(self) -> Any:
        """All processes in a row; or, with `shards`, copies by parts of a copy."""
        from torch.distributed.device_mesh import init_device_mesh

        # fully_shard takes a mesh of two dimensions for HSDP: copies along the first, parts of one along the second.
        kind = self.accelerator.device.type
        if self.shards is None or self.shards == self.world:
            return init_device_mesh(kind, (self.world,))
        return init_device_mesh(
            kind, (self.world // self.shards, self.shards), mesh_dim_names=("copy", "part")
        )

    def with_accelerator(self, recipe: Recipe, device: str, folder: Path) -> Engine:
        """This engine with accelerate's object for devices, mixed precision, clipping and trackers."""
        return replace(self, accelerator=_accelerator(recipe, device, folder))

    def wrap(self, model: nn.Module) -> Any:
        """The model on its device under mixed precision, and in DDP where that is the engine."""
        # In its evaluation mode accelerate sets device and precision only: a model that is split must not go into DDP.
        return self.accelerator.prepare_model(model, evaluation_mode=self.name == "fsdp2")

    def placed(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A micro-batch on this process's device."""
        device = self.accelerator.device
        return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a number over all processes."""
        value = value.to(self.accelerator.device)
        summed: torch.Tensor = self.accelerator.reduce(value, "sum") if self.world > 1 else value
        return summed

    def highest(self, number: int) -> int:
        """The highest of a number over all processes: what one was told, all do."""
        if self.world == 1:
            return number
        value = torch.tensor(number, device=self.accelerator.device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return int(value)

    def gradient_sync(self, model: Any, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """DDP sums gradients over processes in the last micro-batch of a step only.

        fsdp2 does in each: gradients that wait would be whole on every process, which is what sharding is to avoid.
        """
        if last or self.name != "ddp":
            return contextlib.nullcontext()
        held: contextlib.AbstractContextManager[Any] = model.no_sync()
        return held

    def start_trackers(self, recipe: Recipe) -> None:
        """Open the recipe's `report_to`."""
        if recipe.report_to:
            self.accelerator.init_trackers(recipe.name)

    def track(self, line: dict[str, Any]) -> None:
        """Send a line of the metrics to the trackers, if there are any."""
        if self.accelerator.trackers:
            values = {key: value for key, value in line.items() if key not in ("step", "kind")}
            self.accelerator.log(values, step=line["step"])

    def stop_trackers(self) -> None:
        """Let the trackers finish."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def settle(self, model: Any) -> None:
        """Under fsdp2 an evaluation leaves the outermost weights gathered: give each process its part back."""
        if self.name == "fsdp2":
            model.reshard()

    def check_rows(self, model: Any, vocabulary_size: int, device: Any) -> None:
        """Refuse a model that computes something else on shared rows."""
        if self.sharing is not None:
            mixed = self.accelerator.mixed_precision != "no"
            check_sharing(model, self.sharing, vocabulary_size, device, mixed=mixed)
            self.settle(model)

    def close(self) -> None:
        """Leave the other processes together, so that none is cut off from one that has already gone."""
        if self.world > 1:
            torch.distributed.barrier()

    def check(self, wrapped: Any) -> None:
        """Refuse to go on when another engine than this one is at work."""
        found = engine_of(wrapped)
        if found != self.name:
            raise RopewalkError(
                f"engine {self.name} was asked for, and {found} is what runs",
                hint="report this: a training under another engine than the one asked for is worth nothing",
            )


def start_engine(part: EnginePart, device: str) -> Engine:
    """Join the other processes, where a launcher started some, and settle which engine runs."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes"):
        raise UsageError(
            "the launcher asks accelerate for FSDP, which does not apply here",
            hint="launch without --use_fsdp, and set engine: {name: fsdp2} in the recipe",
        )
    name = part.name
    if name == "auto":
        name = "ddp" if world > 1 else "single"
    if name == "single" and world > 1:
        raise UsageError(
            f"engine single under a launcher with {world} processes", hint="launch one process, or use ddp"
        )
    if name != "single" and world == 1:
        raise UsageError(f"engine {name} needs several processes", hint=LAUNCH)
    if world == 1:
        way, size = part.sharing
        if size > 1:
            raise UsageError(
                f"{way}_parallel={size} shares each row by {size} processes, and this is one", hint=LAUNCH
            )
        return Engine("single")
    way, size = _ways(part)
    state = join_group(device == "cpu")
    # A group that an earlier run of these processes has left does not meet by itself, and what comes next counts on it.
    torch.distributed.barrier()
    sharing = None if size == 1 else _start_sharing(way, size, state.num_processes, device)
    if part.shards is not None and state.num_processes % part.shards:
        raise UsageError(
            f"{state.num_processes} processes do not divide into groups of {part.shards} that hold one copy",
            hint=f"launch a multiple of {part.shards} processes",
        )
    return Engine(name, state.process_index, state.num_processes, sharing, shards=part.shards)


def _accelerator(recipe: Recipe, device: str, folder: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import ProjectConfiguration

    here = [str(name) for name in get_available_trackers()]
    missing = [name for name in recipe.report_to if name not in here]
    if missing:
        known = ", ".join(here) or "none"
        raise UsageError(
            f"report_to: {missing[0]} cannot be had: installed here are {known}",
            hint="install it, or leave report_to empty: metrics.jsonl is always written",
        )
    # One process may train twice, on another device or in another precision; accelerate keeps the first for ever, and
    # has no public way to forget it: this call is the one that its own test case makes between two tests.
    # The inner state of several processes stays: it holds the group that `start_engine` has joined.
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        log_with=list(recipe.report_to) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "trackers")),
    )


def _ways(part: EnginePart) -> tuple[Way, int]:
    """How rows are shared: what the recipe says, or else what `accelerate launch` was told."""
    from accelerate import ParallelismConfig

    try:
        told = ParallelismConfig()
    except ValueError as error:
        raise UsageError(
            f"the launcher's parallelism makes no sense ({one_line(error)})", hint="correct its sizes"
        ) from error
    # accelerate would read the same words again and attach hooks of its own.
    for name in [name for name in os.environ if name.startswith("PARALLELISM_CONFIG_")]:
        del os.environ[name]
    os.environ.pop("ACCELERATE_USE_PARALLELISM_CONFIG", None)
    if told.tp_size > 1:
        raise UsageError(
            "tensor parallelism is not offered",
            hint="engine fsdp2 divides the weights; context_parallel, the rows",
        )
    launched = EnginePart(context_parallel=told.cp_size, sequence_parallel=told.sp_size).sharing
    if part.context_parallel is None and part.sequence_parallel is None:
        return launched
    asked = part.sharing
    if launched[1] > 1 and asked != launched:
        raise UsageError(
            f"the recipe asks for {asked[0]} parallelism of {asked[1]}, the launcher says {launched[0]}, {launched[1]}",
            hint="give it in one place",
        )
    return asked


def _start_sharing(way: Way, size: int, world: int, device: str) -> Sharing:
    """The group of neighbouring processes that share rows, out of accelerate's own mesh."""
    from accelerate import ParallelismConfig

    if world % size:
        raise UsageError(
            f"{world} processes do not divide into groups of {size} that share rows",
            hint=f"launch a multiple of {size} processes",
        )
    # accelerate hands sequence parallelism to DeepSpeed and makes no mesh for it; the groups are the same.
    mesh = ParallelismConfig(dp_shard_size=world // size, cp_size=size).build_device_mesh(device)["cp"]
    return Sharing(way, mesh.get_local_rank(), size, mesh.get_group())


def engine_of(wrapped: Any) -> str:
    """The engine that really holds a model: read off the model, not off any setting."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    if isinstance(wrapped, DistributedDataParallel):
        return "ddp"
    if isinstance(wrapped, DataParallel):
        return "torch's DataParallel"
    sharded = [isinstance(tensor, DTensor) for tensor in wrapped.parameters()]
    if isinstance(wrapped, FSDPModule) and all(sharded):
        return "fsdp2"
    return "a half-sharded model" if any(sharded) else "single"


def _of_other_type(layer: nn.Module) -> list[nn.Module]:
    """The innermost modules whose parameters are not of the type that most of the layer is."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in layer.parameters():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    usual = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    return [
        module
        for module in layer.modules()
        if any(tensor.dtype != usual for tensor in module.parameters(recurse=False))
    ]
