"""The effective length: how far the window reaches in use, by retrieval and by text together, with the evidence.

The length score of a length is what is retrieved there as a share of what the same model retrieves at its shortest
tested length, both above chance: a weak model with a long reach and a strong one with a short reach are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ropewalk.evaluation.loss.controls import tail_difference
from ropewalk.evaluation.loss.reading import Reading, perplexity
from ropewalk.evaluation.retrieval.scores import SampleScore, tasks_at_chance
from ropewalk.evaluation.statistics.intervals import Interval, ratio_interval
from ropewalk.text.segments import TokenArray
from ropewalk.units import format_length

THRESHOLD = 0.85
# One per cent of perplexity: less than this is not called worse.
TOLERANCE = 0.01
LSD = 2.0
_GRAM = 4


def effective_length(
    lengths: Sequence[int],
    scores: Sequence[SampleScore],
    losses: Reading | None,
    cropped: Sequence[Reading] = (),
    owners: Sequence[int] | None = None,
    *,
    threshold: float = THRESHOLD,
) -> dict[str, Any]:
    """`{length, threshold, short_score, short_length, evidence, left_out, why}`.

    A length holds when its length score is at least `threshold` AND the tail loss is no worse (by 0.01 nats) than the
    cropped controls'. The effective length is the longest for which it and every shorter tested length hold; None
    when one of the two was not measured or nothing is retrieved at the shortest length. Tasks that the model cannot do
    at the shortest length are left out and named.
    """
    document: dict[str, Any] = {
        "length": None, "threshold": threshold, "short_score": None, "short_length": None, "evidence": [],
        "left_out": [],
    }  # fmt: skip
    if not scores or losses is None or not cropped:
        missing = "retrieval was" if not scores else "loss and the cropped control were"
        return document | {"why": f"{missing} not measured; an effective length needs both"}
    asked = {score.length for score in scores}
    tested = [length for length in sorted(lengths) if length in asked]
    short = min(tested)
    unable = tasks_at_chance(scores, short)
    able = [score for score in scores if score.task not in unable]
    document |= {"short_length": short, "left_out": unable}
    counted = able or list(scores)
    document["short_score"] = _mean([score.credit for score in counted if score.length == short])
    for length in tested:
        document["evidence"].append(_evidence(length, short, counted, losses, cropped, owners, threshold))
    if not able:
        chance = _mean([score.chance for score in scores if score.length == short])
        return document | {
            "why": f"retrieval at {format_length(short)} ({document['short_score']:.2f}) is not above chance "
            f"({chance:.2f}): there is nothing to hold on to at longer lengths"
        }
    holding = _leading(document["evidence"])
    document["length"] = holding[-1]["length"] if holding else None
    return document | {"why": _why(document["evidence"], holding)}


def length_score(scores: Sequence[SampleScore], length: int, short: int) -> Interval | None:
    """What is retrieved at `length` above chance, as a share of that at `short`; interval over texts.

    None where nothing is retrieved at the short length.
    """
    cells = {
        at: {
            (score.task, score.index, score.depth, score.query): (score.credit - score.chance)
            / (1 - score.chance)
            for score in scores
            if score.length == at
        }
        for at in (length, short)
    }
    keys = sorted(cells[length].keys() & cells[short].keys(), key=repr)
    under = [cells[short][key] for key in keys]
    if not keys or sum(under) <= 0:
        return None
    # Below chance is no better than chance: one length's bad luck is not set against another's score.
    return ratio_interval([max(0.0, cells[length][key]) for key in keys], under, [key[:2] for key in keys])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _evidence(
    length: int,
    short: int,
    scores: Sequence[SampleScore],
    losses: Reading,
    cropped: Sequence[Reading],
    owners: Sequence[int] | None,
    threshold: float,
) -> dict[str, Any]:
    """One row; of several cropped controls the one that reads best counts."""
    found = [tail_difference(losses, control, length, owners) for control in cropped]
    difference = max(found, key=lambda one: one.mean)
    here = length_score(scores, length, short)
    share = 0.0 if here is None else here.mean
    return {
        "length": length,
        "retrieval": _mean([score.credit for score in scores if score.length == length]),
        "length_score": share,
        "length_score_ci": None if here is None else here.pair,
        "retrieval_holds": share >= threshold,
        "tail_minus_cropped": difference.mean,
        "tail_minus_cropped_ci": difference.pair,
        "text_holds": difference.mean <= TOLERANCE,
    }


def _leading(evidence: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    holding = []
    for row in evidence:
        if not (row["retrieval_holds"] and row["text_holds"]):
            break
        holding.append(row)
    return holding


def _why(evidence: Sequence[dict[str, Any]], holding: Sequence[dict[str, Any]]) -> str:
    if len(holding) == len(evidence):
        return f"both hold at every tested length, up to {format_length(evidence[-1]['length'])}"
    fallen = evidence[len(holding)]
    reasons = []
    if not fallen["retrieval_holds"]:
        interval = fallen["length_score_ci"]
        spread = "" if interval is None else f" [{interval[0]:.2f} .. {interval[1]:.2f}]"
        reasons.append(f"retrieval falls to {fallen['length_score']:.2f}{spread} of the short score")
    if not fallen["text_holds"]:
        reasons.append(f"the tail reads {fallen['tail_minus_cropped']:.3f} nats worse than cropped context")
    return f"at {format_length(fallen['length'])} " + " and ".join(reasons)


def far_repeats(ids: TokenArray, window: int) -> np.ndarray:
    """Tokens that repeat something far away: the 4 tokens that end there stand more than `window` tokens back and not
    within the window. Chosen by the text alone, so no model is favoured.
    """
    last: dict[bytes, int] = {}
    found = np.zeros(len(ids), dtype=bool)
    for end in range(_GRAM, len(ids) + 1):
        gram = np.ascontiguousarray(ids[end - _GRAM : end]).tobytes()
        before = last.get(gram)
        found[end - 1] = before is not None and end - before > window
        last[gram] = end
    return found


def long_tokens(
    ids: Sequence[TokenArray],
    losses: Reading,
    cropped: Reading,
    lengths: Sequence[int],
    window: int,
) -> list[dict[str, Any]]:
    """Long-token perplexity for each length beyond the window: loss on tokens that depend on far context.

    `loss` and `cropped_loss` are over far repeats (see `far_repeats`). `helped` and `hurt` are the shares of all tokens
    past the window whose loss falls, or rises, by more than 2 nats when the far context is shown (LongPPL's
    long-short difference); equal shares are noise, whatever their size.
    """
    marks = [far_repeats(row, window) for row in ids]
    rows = []
    for length in (length for length in sorted(lengths) if length > window):
        span = slice(window, losses.stops[length])
        full = np.concatenate([row[span] for row in losses.losses[length]]).astype(np.float64)
        near = np.concatenate([row[span] for row in cropped.losses[length]]).astype(np.float64)
        mark = np.concatenate([row[span] for row in marks])
        count = int(mark.sum())
        rows.append(
            {
                "length": length,
                "tokens": count,
                "loss": float(full[mark].mean()) if count else None,
                "perplexity": perplexity(float(full[mark].mean())) if count else None,
                "cropped_loss": float(near[mark].mean()) if count else None,
                "helped": float((near - full > LSD).mean()),
                "hurt": float((full - near > LSD).mean()),
            }
        )
    return rows
