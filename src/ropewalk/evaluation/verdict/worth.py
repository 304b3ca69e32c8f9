"""What context is worth to a model inside its window, on the same tokens, and what that says about training longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluation.result import ContextStep, FineTuning
from ropewalk.evaluation.statistics.intervals import mean_interval, paired_interval

FloatArray = NDArray[np.float64]
# Shares of the window that the same tokens are read with.
SHARES = (4, 2, 1)


def contexts_of(original_length: int) -> list[int]:
    """A quarter, half and all of the window; what is shorter than 16 tokens is left out."""
    return [original_length // share for share in SHARES if original_length // share >= 16]


def fine_tuning(
    by_context: dict[int, FloatArray],
    owners: Sequence[Hashable],
    target_length: int,
    tokens: int,
    best: FloatArray | None,
    retrieval_gain: float | None,
) -> FineTuning | None:
    """See `FineTuning`. `by_context[c]` is each segment's mean loss with c tokens of context, `best` the best row's."""
    contexts = sorted(by_context)
    if len(contexts) < 2:
        return None
    steps = []
    for short, long in itertools.pairwise(contexts):
        found = paired_interval(by_context[short], by_context[long], owners)
        steps.append(ContextStep(context=long, gain=found.mean, ci=found.pair))
    # The last of the pairs is the last doubling inside the window.
    slope, window = found, contexts[-1]
    doublings = math.log2(target_length / window)
    # Segment by segment, so that the interval holds both the loss and the slope that it is carried on with.
    expected = by_context[window] - doublings * (by_context[contexts[-2]] - by_context[window])
    spread = mean_interval(expected, owners)
    gain = None if best is None else paired_interval(best, expected, owners)
    return FineTuning(
        told=slope.low is not None and slope.low > 0 and doublings > 0,
        tokens=tokens,
        contexts=contexts,
        losses=[float(by_context[context].mean()) for context in contexts],
        steps=steps,
        slope=slope.mean,
        slope_ci=slope.pair,
        doublings=doublings,
        expected_loss=spread.mean,
        expected_ci=spread.floored().pair,
        loss_gain=None if gain is None else max(0.0, gain.mean),
        loss_gain_ci=None if gain is None else gain.floored().pair,
        retrieval_gain=retrieval_gain,
    )


def worth_words(found: FineTuning | None, cropped: float | None) -> str:
    """One sentence; nothing where the interval holds nothing."""
    if found is None or not found.told or found.slope_ci is None or cropped is None:
        return ""
    said = (
        f"On the same tokens the model gains {found.slope:.3f} nats [{found.slope_ci[0]:.3f} .. "
        f"{found.slope_ci[1]:.3f}] from the last doubling of context inside its window"
    )
    if len(found.steps) > 1:
        said += f" ({found.steps[-2].gain:.3f} from the one before)"
    return (
        f"{said}: were every doubling up to the target worth that, cropping's {cropped:.3f} would become "
        f"{found.expected_loss:.3f}, the most that training at length can be expected to reach on this text."
    )
