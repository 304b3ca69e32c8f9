"""The effective length: how far the window reaches in use, by retrieval and by text together, with the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ropewalk.evaluation.loss.controls import tail_difference
from ropewalk.evaluation.loss.reading import Reading, perplexity
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.retrieval.scores import wilson
from ropewalk.text.segments import TokenArray
from ropewalk.units import format_length

THRESHOLD = 0.85
# One per cent of perplexity: less than this is not called worse.
TOLERANCE = 0.01
LSD = 2.0
_GRAM = 4


def effective_length(
    lengths: Sequence[int],
    retrieval: Sequence[Mapping[str, Any]],
    losses: Reading | None,
    cropped: Reading | None,
    owners: Sequence[int] | None = None,
    *,
    cropped_unmodified: Reading | None = None,
) -> dict[str, Any]:
    """`{length, threshold, short_score, evidence, why}`.

    A length holds when retrieval there is at least 0.85 of the score at the shortest length AND the tail loss is no
    worse (by 0.01 nats) than the cropped control's, and the cropped unmodified model's where that was measured. The
    effective length is the longest for which it and every shorter tested length hold; None when one of the two was
    not measured or the short score is no better than chance.
    """
    scores = {row["length"]: row for row in retrieval_by_length(retrieval)}
    document: dict[str, Any] = {"length": None, "threshold": THRESHOLD, "short_score": None, "evidence": []}
    if not scores or losses is None or cropped is None:
        missing = "retrieval was" if not scores else "loss and the cropped control were"
        return document | {"why": f"{missing} not measured; an effective length needs both"}
    tested = [length for length in sorted(lengths) if length in scores]
    short = scores[min(scores)]
    document["short_score"] = short["accuracy"]
    for length in tested:
        document["evidence"].append(
            _evidence(length, scores[length], short, losses, [cropped, cropped_unmodified], owners)
        )
    if wilson(short["accuracy"], short["samples"])[0] <= short["chance"]:
        return document | {
            "why": f"retrieval at {format_length(min(scores))} ({short['accuracy']:.2f}) is not above chance "
            f"({short['chance']:.2f}): there is nothing to hold on to at longer lengths"
        }
    holding = _leading(document["evidence"])
    document["length"] = holding[-1]["length"] if holding else None
    return document | {"why": _why(document["evidence"], holding)}


def _evidence(
    length: int,
    score: Mapping[str, Any],
    short: Mapping[str, Any],
    losses: Reading,
    cropped: Sequence[Reading | None],
    owners: Sequence[int] | None,
) -> dict[str, Any]:
    """One row; of several cropped controls the one that reads best counts."""
    found = [tail_difference(losses, control, length, owners) for control in cropped if control is not None]
    difference = max(found, key=lambda one: one.mean)
    share = score["accuracy"] / short["accuracy"] if short["accuracy"] else 0.0
    return {
        "length": length,
        "retrieval": score["accuracy"],
        "retrieval_share": share,
        "retrieval_holds": share >= THRESHOLD,
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
        reasons.append(f"retrieval falls to {fallen['retrieval_share']:.2f} of the short score")
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
