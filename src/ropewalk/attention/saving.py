"""A temperature written into a checkpoint's weights, so that stock software computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ropewalk.attention.temperature import AppliedTemperature
from ropewalk.attention.tempers import Temper, parse_temper
from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model


@dataclass(frozen=True)
class Folding:
    """What `extend` calls before it writes the manifest; `name` stands in the command that does the same again."""

    name: str
    temper: Temper

    def __call__(self, folder: Path) -> dict[str, Any]:
        """Fold, and say what was folded."""
        return _fold(folder, self.temper)


def folding(name: str) -> Folding:
    """For `ropewalk.extend(..., finish=folding("entropy-matched"))`: a temperature for the checkpoint's weights."""
    temper = parse_temper(name)
    if not temper.foldable:
        raise UsageError(
            f"temperature {name} depends on the position, which no weights can hold",
            hint="use it at run time (generate, compare, eval), or fold constant or entropy-matched",
        )
    return Folding(name, temper)


def _fold(folder: Path, temper: Temper) -> dict[str, Any]:
    """Fold into the weight files of a folder that is being written; what its manifest says about it.

    A file with a changed tensor is written anew, so that the original that it was linked to stays as it is.
    """
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            "there are no weights for a temperature to be folded into", hint="leave --weights none out"
        )
    model = load_model(folder, device="cpu")
    facts = read_facts(model.config.to_dict())
    factor = max(1.0, facts.rope.factor if facts.rope.is_scaled else 1.0)
    applied = temper.put_on(model, factor, facts.original_length)
    try:
        applied.check_fold()
        written = _changed(applied, model)
    finally:
        applied.remove()
    _replace(folder, written)
    return {
        "temperature": {
            "name": temper.name,
            "factor": factor,
            "value": temper.value,
            "tensors": sorted(written),
        }
    }


def _changed(applied: AppliedTemperature, model: Any) -> dict[str, torch.Tensor]:
    before = model.state_dict()
    folded = applied.folded(before)
    # By identity: what took no constant comes back as the very tensor that was given.
    return {name: tensor for name, tensor in folded.items() if tensor is not before.get(name)}


def _replace(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    left = set(tensors)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names, notes = list(file.keys()), file.metadata()
            mine = [name for name in names if name in left]
            if not mine:
                continue
            content = {name: file.get_tensor(name) for name in names}
        for name in mine:
            if content[name].shape != tensors[name].shape:
                raise _unknown(name)
            # The file's own type, whatever the model was loaded in.
            content[name] = tensors[name].to(content[name].dtype).contiguous()
        path.unlink()
        try:
            save_file(content, path, metadata=notes)
        except SafetensorError as error:
            # Of a full disk it raises an error of its own, which is no OSError.
            raise RopewalkError(
                f"cannot write {path.name} anew ({one_line(error, 120)})",
                hint="check free space: weights that hold a temperature are written, not linked",
            ) from error
        left -= set(mine)
    if left:
        raise _unknown(min(left))


def _unknown(name: str) -> RopewalkError:
    return RopewalkError(
        f"the checkpoint's files do not hold {name} as the model names it",
        hint="keep the temperature at run time instead of folding it",
    )
