"""The rotary modules of a live transformers model: finding them, and asking them what they really compute.

A module counts as rotary when it holds a buffer `inv_freq` or `<layer type>_inv_freq`. Nothing here goes by class or
path, so modules per layer, per layer type, per sub-transformer and per indexer are all found.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.geometry import FloatArray

BUFFER = "inv_freq"
FLAT = ""


@dataclass(frozen=True)
class Spectrum:
    """What one rotary module does for one layer type: radians per token, and the factor on cos and sin.

    `label` is the layer type, empty in a module without any. `source` says how it was learnt: by calling the module
    (`forward`) or from its buffer alone (`buffer`).
    """

    path: str
    label: str
    inv_freq: FloatArray
    attention_factor: float
    source: str


def bare(model: Any) -> Any:
    """The transformers model inside compilation, data parallel and PEFT wrappers."""
    # Wrappers nest; a made object that always holds another one must not keep us here.
    for _ in range(8):
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        # Without a config: a model may have a part of this name itself.
        elif isinstance(getattr(model, "module", None), torch.nn.Module) and not hasattr(model, "config"):
            model = model.module
        else:
            break
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise UsageError(
            f"{type(model).__name__} is not a transformers model",
            hint="load one with ropewalk.models.load.load_model",
        )
    return model


def alone(model: Any) -> Any:
    """`bare`, for whoever runs the model without its wrappers; refused where one of them computes something itself."""
    live, wrapper = bare(model), getattr(model, "_orig_mod", model)
    config = getattr(wrapper, "active_peft_config", None) if hasattr(wrapper, "get_base_model") else None
    # Adapters stand inside the model's own layers; a learnt prompt or prefix is the wrapper's, and would be left out.
    if getattr(config, "is_prompt_learning", False):
        raise RopewalkError(
            f"{type(wrapper).__name__} puts a learnt prompt or prefix ({type(config).__name__}) before each text, "
            "which is not read here",
            hint="give a model with adapters in its layers (LoRA, IA3), or the base model",
        )
    return live


def rotary_modules(model: Any) -> dict[str, Any]:
    """Every rotary module by its path, each once."""
    return {path: module for path, module in model.named_modules() if labels_of(module)}


def labels_of(module: Any) -> list[str]:
    """The layer types of a rotary module; one empty label for a module that serves all, none for other modules."""
    names = [name for name, value in module._buffers.items() if value is not None and value.dim() == 1]
    found = []
    for name in names:
        if name == BUFFER:
            found.append(FLAT)
        elif name.endswith(f"_{BUFFER}") and not name.endswith(f"original_{BUFFER}"):
            found.append(name.removesuffix(f"_{BUFFER}"))
    return found


def key(label: str, name: str) -> str:
    """The attribute of a module that holds `name` for a layer type."""
    return f"{label}_{name}" if label else name


def spectra(model: Any, position: int = 1) -> Iterator[Spectrum]:
    """What every rotary module of a model computes for an input that reaches `position`."""
    for path, module in rotary_modules(model).items():
        for label in labels_of(module):
            yield spectrum(path, module, label, position)


def spectrum(path: str, module: Any, label: str, position: int = 1) -> Spectrum:
    """Ask a rotary module for cos and sin of position 1, in an input whose last position is `position`.

    An angle at position 1 is the frequency itself, and lies in [0, 1] radians for every real model, so that cos and
    sin give it back without ambiguity. Where a module wants arguments that are not known here, its buffer is read.
    """
    buffer = module._buffers[key(label, BUFFER)]
    if buffer.is_meta:
        raise RopewalkError(f"{path} is on the meta device and has no values", hint="load the weights first")
    factor = float(getattr(module, key(label, "attention_scaling"), 1.0) or 1.0)
    answer = _call(module, label, buffer, max(position, 1))
    if answer is not None:
        cos, sin = answer
        scale = np.sqrt(cos**2 + sin**2)
        angle = np.arctan2(sin, cos)
        count = buffer.numel()
        if angle.size == 2 * count:
            # Halves side by side, or each pair written twice in a row.
            side_by_side = np.array_equal(angle[:count], angle[count:])
            pick = slice(0, count) if side_by_side else slice(0, 2 * count, 2)
            angle, scale = angle[pick], scale[pick]
        if angle.size == count:
            return Spectrum(path, label, angle, float(np.median(scale)), "forward")
    return Spectrum(path, label, buffer.detach().double().cpu().numpy(), factor, "buffer")


def _call(module: Any, label: str, buffer: Any, position: int) -> tuple[FloatArray, FloatArray] | None:
    """cos and sin of position 1 as float64 vectors, or None where the module cannot be called this way."""
    parameters = list(inspect.signature(type(module).forward).parameters)
    if parameters[1:3] not in (["x", "position_ids"], ["hidden_states", "position_ids"]):
        return None
    wanted = {"layer_type": label} if "layer_type" in parameters and label else {}
    # Rotary modules take nothing from it but its type and its device.
    x = torch.zeros(1, 2, 8, dtype=torch.float32, device=buffer.device)
    positions = torch.tensor([[1, position]], device=buffer.device)
    with torch.no_grad():
        result = module(x, positions, **wanted)
    if isinstance(result, torch.Tensor) and result.is_complex():
        cos, sin = result.real, result.imag
    elif (
        isinstance(result, tuple)
        and len(result) == 2
        and all(isinstance(part, torch.Tensor) for part in result)
    ):
        cos, sin = result
    else:
        return None
    if cos.shape[-2:-1] != (2,) or cos.shape != sin.shape:
        return None
    width = cos.shape[-1]
    pair = [part.reshape(-1, 2, width)[0, 0].double().cpu().numpy() for part in (cos, sin)]
    return pair[0], pair[1]
