"""LoRA through peft, with norms and embeddings trained in full beside it where asked (LongLoRA, 2309.12307).

The model itself keeps its modules: the adapters sit beside the linear layers, and what is trained in full is trained
in place, so that tied weights stay tied. A finished model is saved merged, or as an adapter that stock peft loads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.attention.interface import attention_modules
from ropewalk.attention.options import PARAMETER
from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.training.model.quantised import is_linear, is_packed, widened
from ropewalk.training.recipe.model import LoraOptions

_PREFIX = "base_model.model."


def add_lora(model: Any, options: LoraOptions, *, seed: int = 0) -> Any:
    """The model with adapters: a peft model that shares all of its weights. Only what is to be trained has gradients.

    B starts at zero, so the model computes what it did; A is drawn under `seed`. Beside an empty model's weights, which
    are on the meta device, the adapters are real ones on the CPU.
    """
    peft = _peft()
    targets = _targets(model, options)
    _check_rank(model, options, targets)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    # peft draws A from the global generator, only for `_draw` to replace it: the run's own numbers stay where they are.
    with torch.random.fork_rng(devices=[]):
        wrapped = peft.get_peft_model(model, config)
    _draw(wrapped, seed)
    base = wrapped.get_base_model()
    for name in _in_full(base, options):
        _train_in_full(base, base.get_submodule(name))
    return wrapped


@torch.no_grad()
def _draw(wrapped: nn.Module, seed: int) -> None:
    """A as peft draws it, uniform in +- 1 / sqrt(inputs), and B zero; the same whatever holds the base."""
    from peft.tuners.lora import LoraLayer

    generator = torch.Generator().manual_seed(seed)
    for module in wrapped.modules():
        if not isinstance(module, LoraLayer):
            continue
        for part in (module.lora_A["default"], module.lora_B["default"]):
            if part.weight.is_meta:
                part.to_empty(device="cpu")
        down = module.lora_A["default"].weight
        drawn = nn.init.kaiming_uniform_(torch.empty(down.shape), a=math.sqrt(5), generator=generator)
        down.copy_(drawn)
        module.lora_B["default"].weight.zero_()


def own_name(name: str) -> str:
    """What the base itself calls a tensor of a model with adapters; any other name stays as it is."""
    return name.removeprefix(_PREFIX).replace(".base_layer.", ".")


def _train_in_full(model: Any, module: nn.Module) -> None:
    """Train a norm or the embeddings in float32, whatever the base is kept in: in bfloat16 small updates round to 0.

    What comes out of the module has the type that it had, so that the layers after it see no difference.
    """
    dtype = next(module.parameters(recurse=False)).dtype
    module.requires_grad_(True)
    if dtype == torch.float32:
        return
    module.to(torch.float32)
    module.register_forward_hook(lambda _module, _args, output: output.to(dtype))
    head = model.get_output_embeddings()
    if module is model.get_input_embeddings() and head is not None and head.weight is module.weight:
        # A tied head shares the float32 weight: without this its product would be of two types.
        head.register_forward_pre_hook(lambda _head, args: (args[0].float(), *args[1:]))


def trained_tensors(model: Any) -> dict[str, Tensor]:
    """Everything that LoRA trains, by name: adapters, and norms and embeddings where trained."""
    return {name: tensor.detach() for name, tensor in _trained(model).items()}


@torch.no_grad()
def put_trained(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `trained_tensors` gave; names and shapes must be the same."""
    wanted = _trained(model)
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())
        raise DamagedError(
            f"the adapter's tensors are not those of this model ({odd[0]} and {len(odd) - 1} more differ)",
            hint="use the recipe and the base model that it was trained with",
        )
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise DamagedError(
                f"{name} is {tuple(tensors[name].shape)}, the model's {tuple(tensor.shape)}",
                hint="use the recipe and the base model that it was trained with",
            )
        tensor.copy_(tensors[name])


@torch.no_grad()
def merged_weights(model: Any) -> dict[str, Tensor]:
    """The state dict of the plain model with W + (alpha / rank) * B A in place of every W; the model stays as it is.

    Packed weights are widened: in it no layer is quantised any more.
    """
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    layers: dict[str, Any] = {
        name: item for name, item in base.named_modules() if isinstance(item, LoraLayer)
    }
    # The type of the frozen weights is that of the base; packed ones have none of their own.
    inside = {id(item) for module in base.modules() if is_packed(module) for item in module.parameters()}
    frozen = (item for item in base.parameters() if not item.requires_grad and id(item) not in inside)
    kept = next((item.dtype for item in frozen if item.is_floating_point()), torch.float32)
    packed = {name: module for name, module in base.named_modules() if is_packed(module)}
    merged: dict[str, Tensor] = {}
    for name, module in packed.items():
        owner = name.removesuffix(".base_layer")
        weight = widened(module, kept).float()
        if owner != name:
            weight += _delta(layers[owner])
        merged[f"{owner}.weight"] = weight.to(kept)
        bias = getattr(module, "bias", None)
        if bias is not None:
            merged[f"{owner}.bias"] = bias.to(kept)
    for name, tensor in base.state_dict().items():
        if ".lora_" in name or _owner(name, packed):
            continue
        owner, found, last = name.rpartition(".base_layer.")
        if not found:
            # What was trained in float32 is written in the type of the rest.
            merged[name] = tensor.to(kept) if tensor.is_floating_point() else tensor
        elif last == "weight":
            # The sum is made in float32 and rounded once.
            merged[f"{owner}.weight"] = (tensor.float() + _delta(layers[owner])).to(tensor.dtype)
        else:
            merged[f"{owner}.{last}"] = tensor
    return merged


def _delta(layer: Any) -> Tensor:
    """(alpha / rank) B A, (outputs, inputs): peft gives it for plain layers only."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    product: Tensor = layer.scaling["default"] * (up.float() @ down.float())
    return product


def _owner(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a tensor of a state dict belongs to one of the modules (packed weights have parts of parts)."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in modules for count in range(1, len(parts)))


def plain_weights(model: Any) -> dict[str, Tensor]:
    """The state dict of the model below the adapters, under its own names."""
    tensors = model.get_base_model().state_dict()
    return {name.replace(".base_layer.", "."): item for name, item in tensors.items() if ".lora_" not in name}


def save_adapter(
    model: Any, folder: Path, trained: Mapping[str, Tensor] | None = None, base_path: str | None = None
) -> None:
    """adapter_config.json and adapter_model.safetensors, as `PeftModel.from_pretrained` reads them.

    `trained` is what `trained_tensors` gave, gathered where the model is sharded. `base_path` is what stock software
    is to load the adapter on.
    """
    from safetensors.torch import save_file

    peft = _peft()
    base = model.get_base_model()
    # As peft itself writes it: whoever loads the adapter has it frozen.
    config = peft.LoraConfig(**{**model.peft_config["default"].to_dict(), "inference_mode": True})
    if base_path is not None:
        config.base_model_name_or_path = base_path
    tensors, modules = {}, []
    for full_name, tensor in (trained_tensors(model) if trained is None else trained).items():
        name = full_name.removeprefix(_PREFIX)
        if ".lora_" in name:
            # Files do not name the adapter: peft puts the name in again when it loads one.
            tensors[_PREFIX + name.replace(".default.", ".")] = tensor.cpu().contiguous()
            continue
        tensors[_PREFIX + name] = tensor.cpu().contiguous()
        modules.append(name.rpartition(".")[0])
    config.modules_to_save = sorted(modules) or None
    names = {id(item): name for name, item in base.named_modules()}
    inputs, outputs = (
        names.get(id(item)) for item in (base.get_input_embeddings(), base.get_output_embeddings())
    )
    if inputs in modules and base.config.get_text_config().tie_word_embeddings:
        config.ensure_weight_tying = True
        # A copy, because safetensors refuses two names for one memory.
        tensors[f"{_PREFIX}{outputs}.weight"] = tensors[f"{_PREFIX}{inputs}.weight"].clone()
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})


def _trained(model: nn.Module) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: tensor for name, tensor in named if tensor.requires_grad and not name.endswith(PARAMETER)}


def _targets(model: Any, options: LoraOptions) -> list[str]:
    head = model.get_output_embeddings()
    # The head stays plain: the loss reads its weight itself, without anything that stands beside it.
    linear = {name: item for name, item in model.named_modules() if is_linear(item) and item is not head}
    if options.targets == "all-linear":
        found = list(linear)
    elif options.targets == "attention":
        owners = {id(item) for module in attention_modules(model).values() for item in module.modules()}
        found = [name for name, item in linear.items() if id(item) in owners]
    else:
        # With the dot a target is a whole word: proj is no name for q_proj.
        found = [
            name for name in linear if any(f".{name}".endswith(f".{target}") for target in options.targets)
        ]
        missing = [
            target
            for target in options.targets
            if not any(f".{name}".endswith(f".{target}") for name in found)
        ]
        if missing:
            raise UsageError(
                f"lora.targets names {missing[0]!r}, which is no linear layer of {type(model).__name__}",
                hint="use attention, all-linear, or names such as q_proj",
            )
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no linear layer for lora.targets={options.targets}",
            hint="try all-linear, or name the layers",
        )
    return found


def _check_rank(model: Any, options: LoraOptions, targets: list[str]) -> None:
    layers = [model.get_submodule(name) for name in targets]
    highest = max(min(layer.in_features, layer.out_features) for layer in layers)
    if options.rank > highest:
        # A product of two matrices that large is no less than the layer itself, and may not fit into memory.
        raise UsageError(
            f"lora.rank={options.rank} is more than the rank of any target, {highest} at most",
            hint="use a lower rank, or train in full: leave lora out",
        )


def _in_full(model: Any, options: LoraOptions) -> list[str]:
    """Names of the modules that are trained in full."""
    embedding = model.get_input_embeddings()
    found = []
    for name, module in model.named_modules():
        norm = type(module).__name__.endswith("Norm") and bool(list(module.parameters(recurse=False)))
        if (options.train_norms and norm) or (options.train_embeddings and module is embedding):
            found.append(name)
    return found


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise RopewalkError(
            "LoRA needs peft, which is not installed", hint="pip install 'ropewalk[train]'"
        ) from error
    return peft
