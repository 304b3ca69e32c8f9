"""Hashes of what a run measures: a text or weights changed in place must not be mixed into figures taken before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.evaluation.tasks.sample import Sample
from ropewalk.files import sha256_of


def of_weights(source: str | Path) -> str:
    """SHA-256 over config.json and every weight file of a model, by name and content. Links are followed."""
    from ropewalk.models.checkpoint.weights import find_weights
    from ropewalk.models.source import resolve

    folder = resolve(source, need_weights=True)
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(find_weights(folder).shards)]:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def of_model(model: Any) -> str:
    """SHA-256 over a loaded model's configuration and tensors."""
    import torch

    digest = hashlib.sha256(str(sorted(model.config.to_dict().items(), key=str)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_questions(groups: Iterable[Iterable[Sample]]) -> str:
    """SHA-256 over the tokens of every prompt and answer."""
    digest = hashlib.sha256()
    for sample in (sample for group in groups for sample in group):
        digest.update(repr(sample.key).encode())
        # One byte order, so that a run may go on on another machine.
        digest.update(np.asarray(sample.prompt_ids).astype("<i8").tobytes())
        digest.update(np.asarray(sample.answer_ids, dtype="<i8").tobytes())
    return digest.hexdigest()
