"""Every random state of a process, as tensors and JSON: read before a checkpoint, put back on resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def read_random() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(JSON document, tensors by name) of the states of python, numpy, torch and every CUDA device in use."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    document = {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return document, tensors


def put_random(document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `read_random` gave; CUDA states only where the devices are the same number."""
    version, words, gauss = document["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = document["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    # All but torch's own are CUDA's.
    cuda = [tensors[f"cuda.{number}"] for number in range(len(tensors) - 1)]
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)


def gathered_random(world: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """`read_random` of every process, by rank; every one of them must call."""
    gathered = [read_random()]
    if world > 1:
        from accelerate.utils import gather_object

        gathered = gather_object(gathered)
    documents = {str(rank): document for rank, (document, _) in enumerate(gathered)}
    named = {
        f"{rank}/{name}": tensor
        for rank, (_, tensors) in enumerate(gathered)
        for name, tensor in tensors.items()
    }
    return documents, named


def put_own_random(documents: dict[str, Any], tensors: dict[str, torch.Tensor], rank: int) -> None:
    """Put back this process's part of what `gathered_random` gave; a process that had none keeps its own."""
    if str(rank) not in documents:
        return
    own = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{rank}/")}
    put_random(documents[str(rank)], own)
