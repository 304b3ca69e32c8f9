"""What `verify` feeds to a model: inputs that reach past the original window at a cost that the machine can bear."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.units import format_bytes

SHORT = 32
TAIL = 32
# Multiplications that a check may cost: about a minute on a small CPU, seconds on a GPU.
BUDGET = {"cpu": 2e12, "cuda": 2e15, "mps": 5e13}
FORWARDS = 5


@dataclass(frozen=True)
class Probe:
    """One input: token ids, their positions (None: 0, 1, 2, ...), and from where on logits are kept and are far out."""

    name: str
    ids: tuple[int, ...]
    positions: tuple[int, ...] | None
    keep: int
    far_from: int

    def to_job(self) -> dict[str, Any]:
        """For the fresh interpreter."""
        positions = None if self.positions is None else list(self.positions)
        return {"ids": list(self.ids), "positions": positions, "keep": self.keep}


def probes_for(
    facts: ModelFacts, target_length: int, parameters: int, device: str, *, offsets: bool
) -> list[Probe]:
    """A short input, and one that reaches past the original window.

    The long one is contiguous where the machine can afford it. Otherwise its first half stands at the window's
    start and its second half at the end of the target window, so that queries really look back over long distances;
    a mere offset would prove nothing, since rotation is relative.
    """
    length = facts.original_length
    vocabulary = facts.vocab_size or 256
    short = Probe("short", _ids(min(SHORT, length), vocabulary), None, 0, min(SHORT, length))
    count = length + TAIL
    if 2.0 * parameters * count * FORWARDS <= BUDGET.get(device, BUDGET["cpu"]):
        keep = max(count - 2 * TAIL, 0)
        return [short, Probe("contiguous", _ids(count, vocabulary), None, keep, TAIL if keep else length)]
    if not offsets:
        return [short]
    last = max(target_length, length + TAIL)
    positions = (*range(TAIL), *range(last - TAIL, last))
    return [short, Probe("gap", _ids(2 * TAIL, vocabulary), positions, 0, TAIL)]


def _ids(count: int, vocabulary: int) -> tuple[int, ...]:
    # Past the first ids, which most vocabularies give to special tokens.
    low = min(3, vocabulary - 1)
    drawn = np.random.default_rng(0).integers(low, min(vocabulary, 50_000), size=count)
    return tuple(int(value) for value in drawn)


def takes_positions(model: Any) -> bool:
    """Whether the model's forward accepts position_ids."""
    return "position_ids" in inspect.signature(type(model).forward).parameters


def run(model: Any, probe: Probe) -> np.ndarray:
    """Logits (kept positions, vocabulary) in float32, with the very arguments that the stock process uses."""
    import torch

    device = next(model.parameters()).device
    ids = torch.tensor([probe.ids], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if probe.positions is not None:
        inputs["position_ids"] = torch.tensor([probe.positions], device=device)
    try:
        with torch.no_grad():
            logits = model(**inputs).logits[0, probe.keep :]
    except Exception as error:
        # An architecture may want inputs of its own; whatever its code objects to is the reason to give.
        raise RopewalkError(
            f"a forward over {len(probe.ids)} tokens fails ({type(error).__name__}: {one_line(error, 160)})",
            hint="check this model by hand",
        ) from error
    return np.asarray(logits.float().cpu().numpy())


def dtype_that_fits(parameters: int, stored_bytes: int, device: Any) -> str:
    """float32 where the memory allows, otherwise bfloat16; RopewalkError where neither fits."""
    free = _free_memory(device)
    # Activations and buffers beside the weights.
    spare = 1.3
    if free is None or 4 * parameters * spare <= free:
        return "float32"
    if min(2 * parameters, stored_bytes) * spare <= free:
        return "bfloat16"
    raise RopewalkError(
        f"running it needs about {format_bytes(2 * parameters * spare)} on {device}, {format_bytes(free)} are free",
        hint="run verify on a machine with more memory",
    )


def _free_memory(device: Any) -> int | None:
    if device.type == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _page_cache()
    except (ValueError, OSError, AttributeError):
        return None


def _page_cache() -> int:
    """Memory that Linux lends to the page cache and gives back on demand."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return max(values.get("MemAvailable", 0) - values.get("MemFree", 0), 0)
