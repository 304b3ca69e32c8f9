"""Whether a text may be read in chunks through a cache: some layers compute something else then."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch

from ropewalk.attention.caches import new_cache


def chunks_agree(
    model: Any, ids_BT: torch.Tensor, whole_BTV: torch.Tensor, running: AbstractContextManager[Any]
) -> tuple[bool, Any | None]:
    """Whether two chunks inside `running` give the logits of one forward, and the cache that they filled."""
    pieces = []
    try:
        cache = new_cache(model, ids_BT.shape[1], forkable=True)
        with running:
            for piece_BT in ids_BT.split(ids_BT.shape[1] // 2, dim=1):
                output = model(input_ids=piece_BT, past_key_values=cache, use_cache=True)
                pieces.append(output.logits.float())
    except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError, IndexError):
        # A model with a cache of its own kind is read whole: slower, never different.
        return False, None
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2
    drift = float((torch.cat(pieces, dim=1) - whole_BTV).abs().max())
    # Where even these few tokens give NaN there is nothing to compare; the measurement itself will say so.
    agree = math.isnan(drift) or drift <= tolerance * max(1e-6, float(whole_BTV.abs().max()))
    return agree, cache
