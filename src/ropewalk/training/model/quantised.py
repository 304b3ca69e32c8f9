"""A base with quantised weights: kept packed below adapters, widened on loading, or refused; and its way back.

Packed weights are frozen: what trains are adapters beside them. A merged checkpoint widens each packed weight, adds its
adapter, and is written in the model's own type.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.config import read_config
from ropewalk.models.quantised import TRAINED_PACKED, WIDENED, stored_bits
from ropewalk.models.source import resolve
from ropewalk.training.recipe.recipe import Recipe

# What `model.quantise` stands for, in bitsandbytes' words.
QUANTISED: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
# What reads a method's packed weights, as `import` names it.
_NEEDS = {"bitsandbytes": ("bitsandbytes",), "gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
# The type of a packed weight in bitsandbytes; gptqmodel's layers are known by their buffer.
_PACKED_TYPE = "Params4bit"


@dataclass(frozen=True)
class Quantisation:
    """How a base is quantised: `packed` below its adapters or widened, and `by_recipe` or in its own files.

    `settings` is what transformers is told beside what the files say.
    """

    method: str
    packed: bool
    by_recipe: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def as_stored(self) -> bool:
        """Whether the base's files hold the weights that are trained on: those of any other are written anew."""
        return self.packed and not self.by_recipe

    def told(self, device: str) -> dict[str, Any]:
        """`settings`, and for gptqmodel's layers the kernel: one with a gradient, on a CPU the one in plain torch."""
        if self.method not in ("gptq", "awq"):
            return self.settings
        plain = {"gptq": "torch", "awq": "torch_awq"}[self.method]
        return self.settings | {"backend": plain if device == "cpu" else "auto_trainable"}

    @property
    def remark(self) -> str | None:
        """What a user must know of the memory."""
        if self.packed:
            return None
        return (
            f"{self.method} weights take no gradient and no adapter: they are widened on loading, and need the memory "
            "of unquantised ones"
        )


def quantisation_of(recipe: Recipe) -> Quantisation | None:
    """How the recipe's base is quantised, None where it is not; what cannot be trained is refused before loading."""
    part = recipe.model
    if part.path is None:
        return None
    config = read_config(resolve(part.path))
    found = stored_bits(config, config)
    computed = "bfloat16" if "bfloat16" in (part.dtype, recipe.precision) else "float32"
    if found is None and part.quantise is None:
        return None
    if found is None:
        assert part.quantise is not None
        method, by_recipe = "bitsandbytes", True
        settings = {"quant_method": method} | QUANTISED[part.quantise]
    else:
        method, by_recipe, settings = found[0], False, {}
        if part.quantise is not None:
            raise UsageError(
                f"model.quantise: {part.quantise}, and {part.path} keeps its weights quantised already ({method})",
                hint="leave out model.quantise, or start from the unquantised model",
            )
    if method in WIDENED:
        return Quantisation(method, False, settings={"dequantize": True})
    stored = None if by_recipe else config.get("quantization_config")
    _check_packed(recipe, method, "model.quantise" if by_recipe else str(part.path), stored)
    if method == "bitsandbytes":
        settings["bnb_4bit_compute_dtype"] = computed
    return Quantisation(method, True, by_recipe, settings)


def _check_packed(recipe: Recipe, method: str, named: str, config: Mapping[str, Any] | None) -> None:
    """Refuse what packed weights do not serve; `config` is the file's quantization_config."""
    if method not in TRAINED_PACKED:
        known = ", ".join([*TRAINED_PACKED, *WIDENED])
        raise UsageError(
            f"{named}: weights quantised by {method} are not trained on here",
            hint=f"start from the unquantised model; the methods that are: {known}",
        )
    # transformers writes bitsandbytes' flags with an underscore as well.
    if config is not None and (config.get("load_in_8bit") or config.get("_load_in_8bit")):
        raise UsageError(
            f"{named}: 8-bit weights of bitsandbytes are not trained on here: their gradients failed when tried",
            hint="start from the unquantised model, with model.quantise: nf4 where memory is short",
        )
    if recipe.lora is None:
        raise UsageError(
            f"{named}: packed weights ({method}) take no gradient, only adapters beside them do",
            hint="add lora to the recipe, or start from the unquantised model",
        )
    if recipe.engine.name == "fsdp2":
        raise UsageError(
            f"{named}: packed weights ({method}) are not split over processes, each holds them whole",
            hint="use engine ddp, or the unquantised model with fsdp2",
        )
    if recipe.temperature is not None:
        raise UsageError(
            f"{named}: a temperature is folded into weights, and packed ones ({method}) cannot take it",
            hint="leave out temperature, or start from the unquantised model",
        )
    for package in _NEEDS[method]:
        if importlib.util.find_spec(package) is None:
            raise RopewalkError(
                f"{named}: {method} weights need {package}, which is not installed",
                hint="pip install 'ropewalk[quantised]'"
                if method == "bitsandbytes"
                else f"pip install {package}",
            )


def is_packed(module: nn.Module) -> bool:
    """Whether a layer keeps its weight packed: bitsandbytes by its type, gptqmodel's layers as `qweight`."""
    weight = module._parameters.get("weight")
    return type(weight).__name__ == _PACKED_TYPE or "qweight" in module._buffers


def is_linear(module: nn.Module) -> bool:
    """Whether adapters can stand beside a module."""
    return isinstance(module, nn.Linear) or is_packed(module)


def keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights as they are packed.

    On some CPUs bitsandbytes packs them anew in an evaluation's first forward, with coarser scales, and what trains or
    merges afterwards would read the old layout.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@torch.no_grad()
def widened(module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight (outputs, inputs) that a packed layer computes with on inputs of a type."""
    if "qweight" not in module._buffers:  # bitsandbytes
        from peft.utils.integrations import dequantize_module_weight

        return dequantize_module_weight(module).detach()
    # What a layer makes of the unit vectors are its columns, whatever way it packs them.
    size: Any = module.in_features
    made = module(torch.eye(size, dtype=dtype, device=module._buffers["qweight"].device))
    bias = getattr(module, "bias", None)
    weight: Tensor = (made if bias is None else made - bias).T.detach().contiguous()
    return weight


def count_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """Weights of a model (`trained`: those with a gradient), a packed one counting as what it stands for."""
    if trained:
        return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    packed = [module for module in model.modules() if is_packed(module)]
    inside = {id(tensor) for module in packed for tensor in module.parameters()}
    plain = sum(tensor.numel() for tensor in model.parameters() if id(tensor) not in inside)
    return plain + sum(_size(module) for module in packed)


def _size(module: Any) -> int:
    bias = getattr(module, "bias", None)
    return int(module.in_features * module.out_features + (0 if bias is None else bias.numel()))


@contextlib.contextmanager
def written_plain(model: Any) -> Iterator[None]:
    """Inside, transformers writes the tensors that it is given, with a configuration that declares no quantisation."""
    # Taken away, not set to None: a quantiser puts its packed tensors in the place of those that are given, and a
    # configuration writes the key wherever it has the attribute.
    quantizer = model.__dict__.pop("hf_quantizer", None)
    stored = model.config.__dict__.pop("quantization_config", None)
    try:
        yield
    finally:
        if quantizer is not None:
            model.hf_quantizer = quantizer
        if stored is not None:
            model.config.quantization_config = stored


def declared(model: Any) -> dict[str, Any] | None:
    """`quantization_config` of a loaded model, as a configuration file has it; None where nothing is packed."""
    found = getattr(model.config, "quantization_config", None)
    if found is None:
        return None
    return dict(found) if isinstance(found, dict) else dict(found.to_dict())
