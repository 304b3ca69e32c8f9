"""A training state to files and back: model weights and optimiser state as safetensors, the rest as JSON. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ropewalk.attention.options import PARAMETER
from ropewalk.errors import DamagedError, one_line
from ropewalk.training.model.lora import (
    merged_weights,
    plain_weights,
    put_trained,
    save_adapter,
    trained_tensors,
)
from ropewalk.training.model.quantised import written_plain
from ropewalk.training.recipe.model import LoraOptions

if TYPE_CHECKING:
    from ropewalk.training.parts.tempering import Tempering

FOLDER = "training"
ADAPTER = "adapter"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
TRAINED = f"{FOLDER}/trained.safetensors"
KEPT = f"{FOLDER}/temperature.safetensors"
RANDOM = "random.safetensors"
SHARDS = f"{FOLDER}/shards"


def whole(tensor: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
    """A tensor on the CPU, gathered from all ranks where it is sharded (every rank must call).

    A rank that does not write (`keep=False`) lets it go at once: not every process can hold the whole model.
    """
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.detach().to("cpu") if keep else torch.empty(0)


def wholes(
    tensors: Mapping[str, torch.Tensor], model: torch.nn.Module, *, keep: bool = True
) -> dict[str, torch.Tensor]:
    """`whole` of each of the model's tensors by name; what is tied stays tied, so that it is saved once."""
    same = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    found: dict[int | str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = same.get(name, name)
        if key not in found:
            found[key] = whole(tensor, keep=keep)
    return {name: found[same.get(name, name)] for name in tensors}


def names_of(model: torch.nn.Module) -> dict[int, str]:
    """id of each trainable parameter -> its name."""
    return {id(tensor): name for name, tensor in model.named_parameters() if tensor.requires_grad}


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], *, keep: bool = True
) -> dict[str, torch.Tensor]:
    """The optimiser's state as `parameter name::state name`; sharded states are gathered (every rank must call)."""
    tensors: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensor = value if torch.is_tensor(value) else torch.tensor(value)
                tensors[f"{names[id(parameter)]}::{key}"] = whole(tensor, keep=keep).clone().contiguous()
    return tensors


def put_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave; a parameter without its state is an error."""
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, state = key.rpartition("::")
        by_name.setdefault(name, {})[state] = tensor
    wanted = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    missing = [names[id(parameter)] for parameter in wanted if names[id(parameter)] not in by_name]
    if missing or len(by_name) != len(wanted):
        odd = missing[0] if missing else sorted(set(by_name) - {names[id(p)] for p in wanted})[0]
        raise DamagedError(
            f"the optimiser state does not fit the model: {odd}",
            hint="resume with the recipe that made the checkpoint",
        )
    counting = counting_devices(optimizer)
    for parameter in wanted:
        optimizer.state[parameter] = {
            key: tensor.to(counting[id(parameter)], copy=True)
            if key == "step"
            else _placed(tensor, parameter)
            for key, tensor in by_name[names[id(parameter)]].items()
        }


def counting_devices(optimizer: torch.optim.Optimizer) -> dict[int, torch.device]:
    """id of each parameter -> where its steps are counted: on the device for a fused kernel, else on the CPU."""
    return {
        id(parameter): parameter.device
        if group.get("fused") or group.get("capturable")
        else torch.device("cpu")
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def _placed(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device, copy=True)


def write_training(
    folder: Path,
    optimizer: Mapping[str, torch.Tensor] | None,
    random_tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> None:
    """Write the part of a checkpoint that only training needs; `optimizer` is None where it lies in shards."""
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    if optimizer is not None:
        save_file(dict(optimizer), target / OPTIMIZER)
    save_file(dict(random_tensors), target / RANDOM)
    (target / STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")


def read_training(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]:
    """(optimiser tensors, random tensors, state) of a checked checkpoint."""
    target = folder / FOLDER
    try:
        state = json.loads((target / STATE).read_text(encoding="utf-8"))
        optimizer = {} if is_sharded(folder) else load_file(target / OPTIMIZER)
        return optimizer, load_file(target / RANDOM), state
    except Exception as error:
        raise DamagedError(
            f"checkpoint {folder.name}: its training state cannot be read ({one_line(error)})",
            hint="restore it from a copy, or remove the folder to go back to the one before",
        ) from error


@dataclass(frozen=True)
class ModelFiles:
    """A model's weights on the CPU, gathered from all ranks, ready to be written by one.

    `weights` are those of a whole model folder, merged under LoRA; None on a process that does not write. `trained`
    holds what LoRA changes, `adapter` says that it is written for peft too. `kept` is what a temperature needs.
    """

    model: Any
    weights: dict[str, torch.Tensor] | None
    trained: dict[str, torch.Tensor] | None
    kept: dict[str, torch.Tensor]
    adapter: bool = False
    base: dict[str, torch.Tensor] | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        lora: LoraOptions | None,
        *,
        with_base: bool = False,
        tempering: Tempering | None = None,
        keep: bool = True,
    ) -> ModelFiles:
        """Gather (every rank must call). With `with_base` an adapter's base is no file yet: it is taken along."""
        adapter = lora is not None and lora.save == "adapter"
        if not keep and lora is None and tempering is None:
            # Gathered all the same: the process that writes cannot gather alone.
            wholes(model.state_dict(), model, keep=False)
            return cls(model, None, None, {})
        weights, trained = cls._gathered(model, lora)
        base = None
        if adapter and with_base:
            base = wholes(plain_weights(model), model.get_base_model())
        if tempering is None:
            return cls(model, weights, trained, {}, adapter, base)
        names = {
            name: tensor for name, tensor in tempering.model.state_dict().items() if name.endswith(PARAMETER)
        }
        own = {name: whole(tensor) for name, tensor in names.items()}
        weights, kept = tempering.split(weights, own, keep_weights=lora is None)
        return cls(model, weights, trained, kept, adapter, base)

    @staticmethod
    def _gathered(
        model: Any, lora: LoraOptions | None
    ) -> tuple[dict[str, torch.Tensor] | None, dict[str, torch.Tensor] | None]:
        if lora is None:
            return wholes(model.state_dict(), model), None
        trained = wholes(trained_tensors(model), model)
        return wholes(merged_weights(model), model.get_base_model()), trained

    def write(self, folder: Path, tokenizer: Any, base_path: str | None = None) -> None:
        """Write a model folder that stock software loads, and in `adapter/` what peft loads on the base."""
        base = self.model if self.trained is None else self.model.get_base_model()
        with written_plain(base):
            base.save_pretrained(folder, state_dict=self.weights, safe_serialization=True)
        if self.adapter:
            save_adapter(self.model, folder / ADAPTER, self.trained, base_path)
        if self.trained is not None:
            (folder / FOLDER).mkdir(exist_ok=True)
            # safetensors takes contiguous tensors only.
            save_file({name: tensor.contiguous() for name, tensor in self.trained.items()}, folder / TRAINED)
        if self.kept:
            (folder / FOLDER).mkdir(exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in self.kept.items()}, folder / KEPT)
        tokenizer.save_pretrained(folder)


def read_kept(folder: Path) -> dict[str, torch.Tensor]:
    """What a temperature kept in a checkpoint; nothing where it needs nothing."""
    return load_file(folder / KEPT) if (folder / KEPT).is_file() else {}


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint holds what it trains in parts, as each process wrote its own."""
    return (folder / SHARDS).is_dir()


def read_weights(folder: Path, model: Any) -> None:
    """Put a checkpoint's weights into the model of its recipe, bit for bit; shards are read once the model is split."""
    if is_sharded(folder):
        return
    if (folder / TRAINED).is_file():
        put_trained(model, load_file(folder / TRAINED))
    else:
        read_model(folder, model)


def read_model(folder: Path, model: Any) -> None:
    """Load a checkpoint's weights into a model of the same architecture, bit for bit."""
    saved: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        saved |= load_file(file)
    own = model.state_dict()
    # Of tied tensors the files hold one: the other names are filled with it.
    held = {tensor.data_ptr() for name, tensor in own.items() if name in saved}
    tied = {name for name, tensor in own.items() if name not in saved and tensor.data_ptr() in held}
    if set(saved) | tied != set(own):
        # Architectures whose file layout is not their module layout (fused experts) go through their own loader.
        from transformers import AutoModelForCausalLM

        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).state_dict()
        tied = set()
    missing, unexpected = model.load_state_dict(saved, strict=False)
    if unexpected or set(missing) - tied:
        odd = [*unexpected, *sorted(set(missing) - tied)][0]
        raise DamagedError(
            f"checkpoint {folder.name} does not fit the model: {odd}", hint="use the run's own recipe"
        )
