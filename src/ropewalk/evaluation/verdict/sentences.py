"""A comparison in words: the group and what to take, each claim with its evidence, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import shown_command
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.loss.key_tokens import KeyTokens
from ropewalk.evaluation.result import Paired, Row, Verdict
from ropewalk.evaluation.verdict.worth import worth_words
from ropewalk.units import format_length

MOST_NAMED = 6
_MEASURES = {
    "retrieval": "retrieval",
    "key-tokens": "key-token loss",
    "loss": "loss at the target",
    "window": "loss inside the window",
}


@dataclass(frozen=True)
class About:
    """What the words are about."""

    model: str
    original_length: int
    target_length: int
    cropped: str
    contexts: str
    keys: KeyTokens | None
    segment_units: int
    by_other: bool = False

    @property
    def target(self) -> str:
        """The target as a person writes it."""
        return format_length(self.target_length)


def worded(draft: Verdict, rows: Sequence[Row], controls: Mapping[str, Row], about: About) -> Verdict:
    """The verdict with its words filled in."""
    if not rows:
        said = "No row has been measured to the end."
        return draft.model_copy(update={"summary": said, "points": [said], "closing": "measure"})
    taken = next(row for row in rows if row.name == draft.recommended)
    winner = _winner(draft, rows)
    closing = _closing(draft, rows, winner)
    points = [
        _group_words(draft, taken, about, len(rows)),
        _retrieval_words(draft, taken, controls, about),
        _text_words(taken, controls, about),
        _key_words(taken, controls, about),
        *[f"Not counted: {item.name} ({item.why})." for item in draft.not_counted],
        worth_words(draft.fine_tuning, controls[about.cropped].loss_at_target),
        _closing_words(closing, draft, winner, about),
    ]
    points = [point for point in points if point]
    return draft.model_copy(
        update={
            "closing": closing,
            "next": next_command(closing, winner or taken, about),
            "points": points,
            "summary": " ".join(points),
        }
    )


def _winner(draft: Verdict, rows: Sequence[Row]) -> Row | None:
    """The row to extend with: the recommended one where it beats cropping on something, else the first that does."""
    wins = {*draft.text_beats_cropping, *draft.retrieval_beats_cropping}
    # The recommended one first, the others as they are ranked: the sort is stable.
    ordered = sorted(rows, key=lambda row: row.name != draft.recommended)
    return next((row for row in ordered if row.name in wins), None)


def _closing(draft: Verdict, rows: Sequence[Row], winner: Row | None) -> str:
    """`extend` where a row beats cropping; else `measure` where nothing is sure, `tune` on a draw, or `train`."""
    if winner is not None:
        return "extend"
    gaps = [gap for row in rows for gap in (row.loss_vs_cropped, row.retrieval_vs_cropped) if gap is not None]
    if not gaps or all(gap.p is None for gap in gaps):
        return "measure"
    texts = [row.loss_vs_cropped for row in rows if row.loss_vs_cropped is not None]
    behind = bool(texts) and all(gap.surely and gap.difference > 0 for gap in texts)
    return "train" if behind else "tune"


def _group_words(draft: Verdict, taken: Row, about: About, num_rows: int) -> str:
    by = ", then ".join(_MEASURES[name] for name in draft.criteria)
    gap = taken.window_cost
    cost = "" if gap is None else f" ({gap.difference:+.3f} nats per token there{_spread(gap)})"
    if num_rows == 1:
        return f"At {about.target} tokens {taken.name} is the only row{cost}."
    if not by:
        return (
            f"By {_MEASURES.get(draft.rank_by, 'what was measured')} there is nothing to rank by here: rows stand by "
            f"their loss inside the window, {taken.name} first{cost}."
        )
    if len(draft.group) == 1:
        return f"At {about.target} tokens {taken.name} is best by {by}{cost}."
    named = ", ".join(draft.group[:MOST_NAMED])
    more = len(draft.group) - MOST_NAMED
    named += f" and {more} more" if more > 0 else ""
    return (
        f"At {about.target} tokens {len(draft.group)} rows cannot be told apart from the best by {by}: {named}. "
        f"{taken.name} costs least inside the window{cost} and is recommended."
    )


def _spread(gap: Paired) -> str:
    if gap.low is None or gap.high is None:
        return ", too few documents for an interval"
    return f", {gap.low:+.3f} to {gap.high:+.3f}"


def _retrieval_words(draft: Verdict, taken: Row, controls: Mapping[str, Row], about: About) -> str:
    if taken.retrieval_at_target is None:
        return ""
    near, plain = controls[about.cropped], controls["unmodified"]
    if draft.retrieval is None:
        return f"No row retrieves anything at {about.target} tokens."
    inside = (
        "" if plain.retrieval_in_window is None else f", {plain.retrieval_in_window:.0%} inside the window"
    )
    gap = taken.retrieval_vs_cropped
    sure = "" if gap is None else _sure(gap, better="more", worse="less")
    return (
        f"It retrieves {taken.retrieval_at_target:.0%} of the values at {about.target} tokens, cropping "
        f"{near.retrieval_at_target or 0.0:.0%} ({sure}), the unmodified model "
        f"{plain.retrieval_at_target or 0.0:.0%}{inside}."
    )


def _sure(gap: Paired, *, better: str, worse: str) -> str:
    if gap.p is None:
        return "too few texts to be sure of anything"
    if not gap.surely:
        return "no sure difference"
    return f"surely {better if gap.difference > 0 else worse}"


def _text_words(taken: Row, controls: Mapping[str, Row], about: About) -> str:
    gap, near, plain = taken.loss_vs_cropped, controls[about.cropped], controls["unmodified"]
    if gap is None or near.loss_at_target is None or plain.loss_at_target is None:
        return ""
    if gap.p is None:
        sure = f"a difference of {gap.difference:+.3f} that {about.segment_units} documents do not settle"
    elif not gap.surely:
        sure = f"a draw ({gap.difference:+.3f}{_spread(gap)})"
    else:
        word = "ahead" if gap.difference < 0 else "behind"
        sure = f"surely {word} ({gap.difference:+.3f}{_spread(gap)})"
    return (
        f"Its loss over the last quarter before {about.target} is {taken.loss_at_target:.3f}, cropped "
        f"{near.loss_at_target:.3f}: {sure}; unmodified {plain.loss_at_target:.3f}."
    )


def _key_words(taken: Row, controls: Mapping[str, Row], about: About) -> str:
    keys = about.keys
    if keys is None:
        return ""
    if not keys.told or taken.key_token_loss is None:
        other = "" if about.by_other else " A model that reads far better may choose them: --reference."
        return f"Key tokens say nothing here: {keys.why_not}.{other}"
    near = controls[about.cropped].key_token_loss or 0.0
    return (
        f"On the {keys.count} key tokens, chosen by {keys.reference}, its loss is {taken.key_token_loss:.3f} "
        f"({near:.3f} cropped, by which they were chosen)."
    )


def _closing_words(closing: str, draft: Verdict, winner: Row | None, about: About) -> str:
    if closing == "extend" and winner is not None:
        on = [
            words
            for words, names in (
                ("text", draft.text_beats_cropping),
                ("retrieval", draft.retrieval_beats_cropping),
            )
            if winner.name in names
        ]
        said = f"Extend: {winner.name} beats cropping on {' and '.join(on)}."
        if winner.kind in ("zones", "position-map"):
            slug = Candidate(winner.name).slug
            said = (
                f"{winner.name} beats cropping on {' and '.join(on)}. No checkpoint carries it: `ropewalk generate` "
                f"computes it, and for stock programs the nearest single table is in the run, "
                f"parts/{slug}-nearest-table.json (`ropewalk extend --schedule`)."
            )
        return said
    tuning = draft.fine_tuning
    gain = ""
    if tuning is not None and tuning.told and tuning.loss_gain:
        gain = f", and up to {tuning.loss_gain:.2f} nats per token are there to be had on this text"
    return {
        "measure": "Nothing is sure with this little text: read more of it (--max-segments) before deciding.",
        "tune": f"Tune first: no row beats cropping surely, the best is level with it{gain}.",
        "train": f"Train: every row is surely behind cropping{gain}.",
    }.get(closing, "")


def next_command(closing: str, row: Row, about: About) -> str:
    """The command line that comes next."""
    model, target = about.model, about.target_length
    if closing == "extend":
        if row.variant == "as is":
            return shown_command("eval", model, lengths=str(target))
        if row.kind == "schedule":
            return extend_command(model, row, target, "OUT")
        if row.kind in ("zones", "position-map"):
            how = {"schedule": row.file} if row.file else {"method": row.name}
            return shown_command("generate", model, prompt_file="FILE", **how)
        if row.kind in ("temperature", "cache"):
            return shown_command("eval", model, lengths=str(target))
    if closing == "measure":
        return shown_command("compare", model, target=str(target), max_segments=16)
    if closing == "tune":
        return shown_command("tune", model, target=str(target))
    return shown_command("plan", model, target=str(target), o="recipe.yaml")


def extend_command(model: str, row: Row, target: int, output: str, *, force: bool = False) -> str:
    """The command line that writes a row's schedule into a checkpoint."""
    options: dict[str, Any] = {"schedule": row.file} if row.file else {"method": row.method}
    options["target"] = str(target)
    if row.variant == "reaching":
        options["factor"] = f"{row.factor:.9g}"
    if row.variant == "fitted betas":
        options["p"] = [f"{name}={json.dumps(value)}" for name, value in row.parameters.items()]
    if force:
        options["force"] = True
    return shown_command("extend", model, **options, o=output)
