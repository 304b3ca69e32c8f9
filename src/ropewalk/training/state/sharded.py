"""Weights and optimiser in parts: each process reads and writes its own, through torch.distributed.checkpoint.

The files are safetensors with their place in the whole tensor written beside them, so that any number of processes
reads what any other number wrote. There is no pickle among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ropewalk.errors import DamagedError, one_line
from ropewalk.training.state.weights import SHARDS, counting_devices, names_of

_MODEL, _OPTIMIZER = "model::", "optimizer::"


def own_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What training changes, by name: this process's part of it where it is split."""
    found = {
        _MODEL + name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad
    }
    names = names_of(model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensor = value if torch.is_tensor(value) else torch.tensor(value)
                # The format has no place for a tensor without a dimension.
                found[f"{_OPTIMIZER}{names[id(parameter)]}::{key}"] = (
                    tensor if tensor.ndim else tensor.reshape(1)
                )
    return found


def begin_writing(folder: Path, tensors: Mapping[str, Tensor], group: Any) -> Any:
    """Start to write the parts of all processes into a checkpoint's folder; a future that ends with this one's.

    What is written are copies, made before this returns: training may go on.
    """
    from torch.distributed import checkpoint

    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    writer = checkpoint.HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    return checkpoint.async_save(copies, storage_writer=writer, process_group=group)


def read_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Put back what `own_tensors` gave, however many processes wrote it and read it now (every one must call).

    Without an optimiser the weights alone: what another one kept is of no use.
    """
    from torch.distributed import checkpoint

    reader = checkpoint.HuggingFaceStorageReader(str(folder / SHARDS))
    try:
        kept = reader.read_metadata().state_dict_metadata
    except Exception as error:
        raise _unreadable(folder, error) from error
    wanted = {
        _MODEL + name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad
    }
    odd = sorted(wanted.keys() ^ {name for name in kept if name.startswith(_MODEL)})
    if odd:
        raise DamagedError(
            f"checkpoint {folder.name} does not fit the model: {odd[0].removeprefix(_MODEL)}",
            hint="resume with the recipe that made the checkpoint",
        )
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    states: dict[str, dict[str, Tensor]] = {}
    for name, facts in kept.items():
        if optimizer is not None and name.startswith(_OPTIMIZER):
            owner, _, key = name.removeprefix(_OPTIMIZER).rpartition("::")
            parameter = parameters[owner]
            # A counter is not of its parameter's shape, and has one element in the file (`own_tensors`).
            single = key == "step"
            room = torch.zeros(facts.size) if single else torch.zeros_like(parameter, requires_grad=False)
            states.setdefault(owner, {})[key] = wanted[name] = room
    # Split tensors are read by a plan that all processes make together; a whole model reads by itself.
    split = any(hasattr(tensor, "device_mesh") for tensor in wanted.values())
    try:
        checkpoint.load(wanted, storage_reader=reader, no_dist=not split)
    except Exception as error:
        raise _unreadable(folder, error) from error
    if optimizer is None:
        return
    counting = counting_devices(optimizer)
    for name, state in states.items():
        parameter = parameters[name]
        if "step" in state:
            state["step"] = state["step"][0].to(counting[id(parameter)], copy=True)
        optimizer.state[parameter] = state


def fits_straight(model: nn.Module, files: Mapping[str, Path]) -> bool:
    """Whether every weight of an empty model stands in the files under its own name: parts of it can be read."""
    return all(name in files for name, _ in model.named_parameters())


def names_in(files: list[Path]) -> dict[str, Path]:
    """Tensor name -> the safetensors file that holds it."""
    found: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as stream:
            found |= dict.fromkeys(stream.keys(), path)
    return found


def places(
    model: nn.Module, files: Mapping[str, Path], own_name: Callable[[str], str] = str
) -> dict[str, tuple[Path, str]]:
    """Parameter -> (file, the tensor's name in it), for each that the files hold."""
    named = ((name, own_name(name)) for name, _ in model.named_parameters())
    return {name: (files[stored], stored) for name, stored in named if stored in files}


@torch.no_grad()
def read_parts(model: nn.Module, stored_in: Mapping[str, tuple[Path, str]], device: torch.device) -> None:
    """Fill split parameters of a model that may be empty: each process reads its own rows of each tensor, no others."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    filled: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        # Adapters stand in no file of the base, and keep what they were drawn with.
        if name not in stored_in:
            continue
        path, key = stored_in[name]
        with safe_open(path, framework="pt") as stream:
            # A slice reads its own bytes of the file, not the whole tensor.
            stored = stream.get_slice(key)
            if list(stored.get_shape()) != list(parameter.shape):
                raise DamagedError(
                    f"{path.name}: {key} is {stored.get_shape()}, the model's {list(parameter.shape)}",
                    hint="config.json and weights do not belong together",
                )
            assert isinstance(parameter, DTensor)
            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            # Of a small tensor some processes have no rows.
            rows = slice(offset[0], offset[0] + shape[0]) if shape and shape[0] else slice(0, 0)
            part = stored[rows].to(device=device, dtype=parameter.dtype).contiguous()
        whole = DTensor.from_local(
            part,
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        filled[id(parameter)] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
    # What is tied has several names and stays one.
    names = model.named_parameters(remove_duplicate=False)
    model.load_state_dict(
        {name: filled[id(parameter)] for name, parameter in names if id(parameter) in filled},
        strict=False,
        # An empty parameter has no memory to copy into.
        assign=True,
    )


def _unreadable(folder: Path, error: Exception) -> DamagedError:
    return DamagedError(
        f"checkpoint {folder.name}: its shards cannot be read ({one_line(error, 160)})",
        hint="restore it from a copy, or remove the folder to go back to the one before",
    )
