"""The numbers in words: what the window is worth, and what to do next. Written for the person who must decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import shown_command
from ropewalk.evaluation.result import Controls, LossRow
from ropewalk.evaluation.verdict.effective import TOLERANCE
from ropewalk.units import format_length


def text_verdict(loss: Sequence[LossRow], controls: Controls, original_length: int | None) -> list[str]:
    """Whether reading further back than the original window pays at the longest length."""
    if not loss:
        return []
    last = loss[-1]
    said = [
        f"text: loss {last.loss:.3f} (perplexity {last.perplexity:.2f}) over {format_length(last.length)} tokens"
    ]
    if original_length is None or last.length <= original_length:
        return [
            *said,
            "no tested length is beyond the original window, so nothing is said about a longer one",
        ]
    beside = (
        ("cropped context", controls.cropped),
        ("the unmodified model on cropped context", controls.cropped_unmodified),
        ("the unmodified model", controls.unmodified),
    )
    for name, rows in beside:
        row = next((row for row in rows if row.length == last.length), None)
        # The model itself stands in for an unmodified one where nothing scales it: nothing to say then.
        itself = name == "the unmodified model" and row is not None and row.tail_gain == 0
        if row is not None and row.tail_gain is not None and not itself:
            said.append(f"beside {name} the tail at {format_length(last.length)} reads {_gain(row)}")
    return said


def _gain(row: LossRow) -> str:
    gain = row.tail_gain or 0.0
    words = f"{abs(gain):.3f} nats {'better' if gain > 0 else 'worse'}"
    if row.tail_gain_ci is None:
        return f"{words} (too few documents for an interval: three or more give one)"
    low, high = row.tail_gain_ci
    sure = "" if low > 0 or high < 0 else ", which these documents do not settle"
    return f"{words} [{low:+.3f} .. {high:+.3f}]{sure}"


def retrieval_verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The longest length's retrieval with chance beside it."""
    if not rows:
        return []
    last, first = rows[-1], rows[0]
    said = (
        f"retrieval: {last['accuracy']:.2f} at {format_length(last['length'])} "
        f"(chance {last['chance']:.3g}, {last['samples']} samples)"
    )
    if len(rows) > 1:
        said += f", {first['accuracy']:.2f} at {format_length(first['length'])}"
    return [said]


def key_verdict(keys: Mapping[str, Any] | None) -> list[str]:
    """The loss on tokens that far context helps, and when that says nothing."""
    if keys is None:
        return []
    if not keys["told"]:
        return [f"key tokens say nothing on this text: {keys['why_not']}"]
    return [
        f"key tokens: loss {keys['loss']:.3f} on the {keys['tokens']} tokens that far context helps "
        f"({keys['share']:.2%} of those beyond the window, chosen by {keys['reference']}), "
        f"{keys['cropped_loss']:.3f} on cropped context"
    ]


def effective_verdict(effective: Mapping[str, Any]) -> list[str]:
    """The effective length and why it is not more."""
    if not effective:
        return []
    length = effective["length"]
    head = "effective length: " + ("none" if length is None else format_length(length))
    left = effective.get("left_out") or []
    aside = [f"not counted, since not done at the shortest length either: {', '.join(left)}"] if left else []
    return [f"{head} ({effective['why']})", *aside]


def next_step(
    model: str,
    lengths: Sequence[int],
    loss: Sequence[LossRow],
    controls: Controls,
    effective: Mapping[str, Any],
) -> str:
    """One command that makes sense now."""
    longest = format_length(max(lengths))
    beside = [row for row in [*controls.cropped, *controls.cropped_unmodified] if row.length == max(lengths)]
    worse = any(row.tail_gain is not None and row.tail_gain < -TOLERANCE for row in beside)
    length = effective.get("length")
    if worse or (effective.get("evidence") and (length is None or length < max(lengths))):
        line = shown_command("compare", model, target=longest)
        return f"{line}   # every method on this model; training is the next"
    if not loss or not controls.cropped:
        line = shown_command("eval", model, lengths=longest, tasks="ppl,passkey")
        return f"{line}   # both sides, with the controls"
    if length == max(lengths):
        line = shown_command("eval", model, lengths=format_length(2 * length))
        return f"{line}   # it holds so far: where does it end?"
    return shown_command("inspect", model)
