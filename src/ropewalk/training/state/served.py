"""What makes a checkpoint complete for stock software: its lengths and types, and the base below an adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ropewalk.files import whole_folder
from ropewalk.models.checkpoint.weights import bring_all, find_weights
from ropewalk.models.source import config_path, resolve
from ropewalk.training.model.quantised import declared, written_plain
from ropewalk.training.recipe.model import ModelPart

BASES = "bases"
# Tokenizers without a window say so with a number beyond any.
_NO_LENGTH = 10**12


def declared_dtype(part: ModelPart) -> str | None:
    """The type that the base's config.json declares, which a checkpoint goes on to declare; None for a new model."""
    if part.path is None:
        return None
    document = json.loads(config_path(resolve(part.path)).read_text(encoding="utf-8"))
    found = document.get("dtype") or document.get("torch_dtype")
    return found if isinstance(found, str) else None


def finished_config(
    folder: Path, stretched: Callable[[dict[str, Any]], dict[str, Any]], dtype: str | None
) -> None:
    """Write config.json `stretched`, with the base's declared type, and the tokenizer's length after the model's."""
    document = stretched(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    # Training has it off (`build_model`): left so, whoever generates would compute every token's past again.
    document["use_cache"] = True
    if dtype is not None:
        document["dtype"] = dtype
        if "torch_dtype" in document:
            document["torch_dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    tokenizer, length = folder / "tokenizer_config.json", document.get("max_position_embeddings")
    if not tokenizer.is_file() or not isinstance(length, int):
        return
    settings = json.loads(tokenizer.read_text(encoding="utf-8"))
    if (settings.get("model_max_length") or _NO_LENGTH) < _NO_LENGTH:
        settings["model_max_length"] = length
        tokenizer.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def base_path(run: Path, stage: int) -> str:
    """Where the base of an adapter of that stage stands: beside the checkpoints, because it is stretched."""
    return str((run / BASES / f"stage-{stage + 1}").resolve())


def write_base(
    target: Path, checkpoint: Path, part: ModelPart, model: Any, weights: dict[str, Tensor] | None
) -> None:
    """The base model under a checkpoint's config.json: its weights linked where that can be, whole or not at all.

    Where there is no file of what is trained on (a new model, weights packed or widened while they were loaded), its
    gathered `weights` are written. Packed ones go on to be declared.
    """
    # One base serves all the checkpoints of its stage.
    if target.exists():
        return
    with whole_folder(target) as working:
        for file in checkpoint.iterdir():
            # The configuration and the tokenizer; the weights are the base's own.
            if file.is_file() and not file.name.startswith("model"):
                shutil.copyfile(file, working / file.name)
        base = model.get_base_model()
        document = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        packed = declared(base)
        if packed is not None:
            document["quantization_config"] = packed
        if weights is not None:
            with written_plain(base):
                base.save_pretrained(working, state_dict=weights, safe_serialization=True)
        (working / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if weights is not None:
            return
        assert part.path is not None
        bring_all(find_weights(resolve(part.path, need_weights=True)), working, "link")
