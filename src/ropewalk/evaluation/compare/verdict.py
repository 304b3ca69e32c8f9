"""From scores to rows, ranks and words. Nothing here touches a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ropewalk.evaluation.compare.candidates import CROPPED, UNMODIFIED, Candidate
from ropewalk.evaluation.compare.measure import Scores
from ropewalk.evaluation.compare.result import DepthAccuracy, FineTuning, LengthLoss, Paired, Row, Verdict
from ropewalk.units import format_length

# Student's t, two-sided 95 %, by degrees of freedom; beyond the table the normal value is close enough.
_T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
)
_Z95 = 1.96


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): Student's 95 % interval of a mean. A single value has no spread, its interval is itself.

    >>> [round(value, 2) for value in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, mean, mean
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = (_T95[count - 2] if count - 2 < len(_T95) else _Z95) * spread / math.sqrt(count)
    return mean, mean - half, mean + half


def paired(values: Sequence[float], control: Sequence[float]) -> Paired:
    """Mean of `values - control`, pair by pair, with its interval."""
    mean, low, high = mean_interval([one - other for one, other in zip(values, control, strict=True)])
    return Paired(difference=mean, low=low, high=high)


def row_of(candidate: Candidate, scores: Scores, original: int, target: int, seconds: float) -> Row:
    """One row without its place among the others."""
    loss = []
    for length, values in sorted(scores.by_length.items()):
        mean, low, high = mean_interval(values)
        loss.append(LengthLoss(length=length, loss=mean, ci=[low, high]))
    retrieval = [
        DepthAccuracy(
            task=task,
            length=length,
            depth=depth,
            accuracy=math.fsum(values) / len(values),
            samples=len(values),
        )
        for (task, length, depth), values in sorted(scores.credits.items())
    ]
    return Row(
        **candidate.to_json(),
        loss=loss,
        loss_at_target=mean_interval(scores.by_length[target])[0],
        loss_in_window=mean_interval(scores.in_window)[0],
        retrieval=retrieval,
        retrieval_at_target=_mean(scores.credit_at(target)),
        retrieval_in_window=_mean(scores.credit_at(original)),
        curve=[round(value, 5) for value in scores.curve],
        seconds=round(seconds, 2),
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def ranked(rows: Sequence[Row], scores: dict[str, Scores], target: int) -> list[Row]:
    """Rows with their paired differences to both controls and their ranks, best for text first."""
    plain, cropped = scores[UNMODIFIED], scores[CROPPED]
    asked = bool(plain.credit_at(target))
    compared = [
        row.model_copy(
            update={
                "loss_vs_unmodified": paired(scores[row.name].by_length[target], plain.by_length[target]),
                "loss_vs_cropped": paired(scores[row.name].by_length[target], cropped.by_length[target]),
                "window_cost": paired(scores[row.name].in_window, plain.in_window),
                "retrieval_vs_cropped": paired(scores[row.name].credit_at(target), cropped.credit_at(target))
                if asked
                else None,
            }
        )
        for row in rows
    ]
    by_text = sorted(compared, key=lambda row: row.loss_at_target)
    by_answers = sorted(compared, key=lambda row: (-(row.retrieval_at_target or 0.0), row.loss_at_target))
    place = {row.name: number for number, row in enumerate(by_answers, start=1)}
    return [
        row.model_copy(update={"rank_text": number, "rank_retrieval": place[row.name] if asked else None})
        for number, row in enumerate(by_text, start=1)
    ]


def judge(
    rows: Sequence[Row], controls: dict[str, Row], scores: dict[str, Scores], original: int, target: int
) -> Verdict:
    """The verdict over ranked rows; with no row finished yet it says so."""
    text = rows[0] if rows else None
    answers = min(
        (row for row in rows if row.rank_retrieval), key=lambda row: row.rank_retrieval or 0, default=None
    )
    if answers is not None and not answers.retrieval_at_target:
        answers = None
    text_wins = [row.name for row in rows if row.loss_vs_cropped is not None and row.loss_vs_cropped.below]
    answer_wins = [
        row.name for row in rows if row.retrieval_vs_cropped is not None and row.retrieval_vs_cropped.above
    ]
    tuning = fine_tuning(rows, controls, scores, original, target)
    return Verdict(
        text=None if text is None else text.name,
        retrieval=None if answers is None else answers.name,
        beats_cropping=bool(text_wins),
        text_beats_cropping=text_wins,
        retrieval_beats_cropping=answer_wins,
        fine_tuning=tuning,
        summary=_summary(text, answers, controls, tuning, original, target),
    )


def fine_tuning(
    rows: Sequence[Row], controls: dict[str, Row], scores: dict[str, Scores], original: int, target: int
) -> FineTuning:
    """See `FineTuning`. The slope is the mean fall of the loss over the window's last two doublings of context."""
    bands = scores[UNMODIFIED].bands
    slope = max(0.0, (bands[0] - bands[-1]) / (len(bands) - 1)) if len(bands) > 1 else 0.0
    expected = controls[CROPPED].loss_at_target - slope * math.log2(target / original)
    best = min((row.loss_at_target for row in rows), default=controls[UNMODIFIED].loss_at_target)
    inside = controls[UNMODIFIED].retrieval_in_window
    found = max((row.retrieval_at_target or 0.0 for row in rows), default=0.0)
    return FineTuning(
        slope=slope,
        expected_loss=expected,
        loss_gain=max(0.0, best - expected),
        retrieval_gain=None if inside is None else max(0.0, inside - found),
    )


def _summary(
    text: Row | None,
    answers: Row | None,
    controls: dict[str, Row],
    tuning: FineTuning,
    original: int,
    target: int,
) -> str:
    if text is None:
        return "No method has been measured to the end."
    parts = [
        _text_words(text, controls, original, target),
        _answer_words(text, answers, controls, original, target),
    ]
    parts.append(_tuning_words(tuning))
    return " ".join(part for part in parts if part)


def _text_words(text: Row, controls: dict[str, Row], original: int, target: int) -> str:
    plain, cropped = controls[UNMODIFIED].loss_at_target, controls[CROPPED].loss_at_target
    assert text.loss_vs_cropped is not None
    assert text.window_cost is not None
    gap = text.loss_vs_cropped
    margin = f"{abs(gap.difference):.3f} nats per token, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
    if gap.below:
        against = f"It beats cropping to the last {original} tokens (by {margin})."
    elif gap.above:
        against = f"No method beats cropping to the last {original} tokens: the best is behind by {margin}."
    else:
        against = f"Against cropping to the last {original} tokens it is a draw ({margin})."
    return (
        f"For text, {text.name} is best at {format_length(target)} tokens: loss {text.loss_at_target:.3f}, "
        f"unmodified {plain:.3f}, cropped {cropped:.3f}. {against} "
        f"Inside the original window it costs {text.window_cost.difference:+.3f} nats per token."
    )


def _answer_words(
    text: Row, answers: Row | None, controls: dict[str, Row], original: int, target: int
) -> str:
    cropped, inside = controls[CROPPED].retrieval_at_target, controls[UNMODIFIED].retrieval_in_window
    if cropped is None:
        return ""
    if answers is None:
        return f"For retrieval no method finds anything at {format_length(target)} tokens."
    assert answers.retrieval_at_target is not None
    assert answers.retrieval_vs_cropped is not None
    same = "the same method" if answers.name == text.name else answers.name
    within = "" if inside is None else f", and {inside:.0%} of those inside the window"
    closing = "more than cropping" if answers.retrieval_vs_cropped.above else "not surely more than cropping"
    return (
        f"For retrieval, {same} is best: {answers.retrieval_at_target:.0%} of the values at "
        f"{format_length(target)} tokens, {closing} ({cropped:.0%}); the unmodified model finds "
        f"{controls[UNMODIFIED].retrieval_at_target or 0.0:.0%} there{within}."
    )


def _tuning_words(tuning: FineTuning) -> str:
    gain = f"up to about {tuning.loss_gain:.2f} nats per token"
    if tuning.retrieval_gain is not None:
        gain += f" and {tuning.retrieval_gain * 100:.0f} points of retrieval"
    return f"Fine-tuning at the target length could be worth {gain}, judged by what the model does inside its window."
