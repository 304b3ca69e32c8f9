"""How `ropewalk eval` looks when it is done: tables and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.units import format_length

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.evaluation.result import EvalResult, TextUsed


def show(screen: Console, result: EvalResult, *, quiet: bool = False) -> None:
    """Tables, the verdict in words, the next step."""
    if result.loss:
        screen.print(_loss_table(result))
        _say(screen, _about_controls(result), quiet)
    if result.retrieval:
        screen.print(_retrieval_table(result))
    if result.long_tokens:
        screen.print(_long_table(result))
    if result.caches:
        screen.print(_ways_table("Caches", "the full one", result.lengths, result.caches))
    if result.temperatures:
        screen.print(
            _ways_table("Attention temperatures", "the model's own", result.lengths, result.temperatures)
        )
    if result.health:
        screen.print(_health_table(result))
    for line in result.verdict:
        screen.print(line[:1].upper() + line[1:] + ".", markup=False)
    _say(screen, [f"Note: {remark}." for remark in result.remarks], quiet)
    if result.run:
        screen.print(f"Run: {result.run}", markup=False)
    _say(screen, [f"Next: {result.next}"] if result.next else [], quiet)


def _say(screen: Console, lines: list[str], quiet: bool) -> None:
    for line in [] if quiet else lines:
        screen.print(line, markup=False)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _loss_table(result: EvalResult) -> Any:
    from rich.table import Table

    table = Table(title=f"Loss (nats per token), {result.protocol} protocol", title_justify="left")
    for name in ("length", "loss", "perplexity", "95 %", "tail", "tail cropped", "gain", "tail unmodified"):
        table.add_column(name, justify="right")
    cropped = {row.length: row for row in result.controls.cropped}
    unmodified = {row.length: row for row in result.controls.unmodified}
    for row in result.loss:
        crop, plain = cropped.get(row.length), unmodified.get(row.length)
        table.add_row(
            format_length(row.length),
            _number(row.loss),
            _number(row.perplexity, 2),
            "-" if row.ci is None else f"{row.ci[0]:.3f} .. {row.ci[1]:.3f}",
            _number(row.tail_loss),
            _number(crop.tail_loss if crop else None),
            # Adding zero after rounding turns a negative zero into a plain one.
            "-" if crop is None or crop.tail_gain is None else f"{round(crop.tail_gain, 3) + 0.0:+.3f}",
            _number(plain.tail_loss if plain else None),
        )
    return table


def _about_controls(result: EvalResult) -> list[str]:
    said = []
    if result.text is not None:
        text = result.text
        count = len(text.documents)
        said.append(
            f"Text: {text.source}; {text.segments} segments of {format_length(text.segment_length)} tokens "
            f"from {count} document{'s' if count != 1 else ''}. The tail is the last quarter before a length."
        )
        said += how_much(text)
    if result.controls.contexts is not None:
        said.append(
            f"Cropped: each token sees {result.controls.contexts}. Gain above zero: the longer context helps."
        )
    if result.controls.unmodified_is is not None:
        said.append(f"Unmodified: {result.controls.unmodified_is}.")
    return said


def how_much(text: TextUsed) -> list[str]:
    """How much of the text was read, and what reading twice as much, or all of it, would take."""
    read, there = text.tokens, text.tokens_available
    if read is None or there is None or text.segments_available is None or there <= read:
        return []
    said = f"Read {_tokens(read)} of about {_tokens(there)} tokens ({read / there:.1%})"
    # Twice as much narrows an interval by almost a third: less is hardly seen, more is a long wait.
    more = min(2 * text.segments, text.segments_available)
    if more <= text.segments:
        return [f"{said}; the rest is in pieces shorter than a segment."]
    cost = ""
    if text.seconds:
        each = text.seconds / text.segments
        cost = f", about {each * (more - text.segments):.0f} s more for every reader"
        cost += f"; all {text.segments_available} segments {_duration(each * text.segments_available)}"
    few = len(text.documents)
    why = " Intervals need three documents." if few < 3 else ""
    return [f"{said}. --max-segments {more} reads twice as much{cost}.{why}"]


def _tokens(count: int) -> str:
    """A count as a person says it; counts of text are no lengths, so 1k is a thousand here."""
    for size, unit in ((10**9, "bn"), (10**6, "m"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _retrieval_table(result: EvalResult) -> Any:
    from rich.table import Table

    table = Table(title="Retrieval (accuracy; chance beside it)", title_justify="left")
    lengths = sorted({row["length"] for row in result.retrieval})
    table.add_column("task")
    table.add_column("depth", justify="right")
    for length in lengths:
        table.add_column(format_length(length), justify="right")
    table.add_column("chance", justify="right")
    cells: dict[tuple[str, float | None], dict[int, dict[str, Any]]] = {}
    for row in result.retrieval:
        name = row["task"] + (" (choice)" if row["scoring"] == "forced-choice" else "")
        cells.setdefault((name, row["depth"]), {})[row["length"]] = row
    for (task, depth), found in cells.items():
        # Forced choice among fewer answers has more chance: of several lengths the highest is the one to beat.
        chance = max(row["chance"] for row in found.values())
        scores = [f"{found[n]['accuracy']:.2f}" if n in found else "-" for n in lengths]
        table.add_row(task, "-" if depth is None else f"{depth:.2f}", *scores, f"{chance:.3g}")
    return table


def _long_table(result: EvalResult) -> Any:
    from rich.table import Table

    table = Table(title="Tokens that repeat something beyond the original window", title_justify="left")
    for name in ("length", "tokens", "loss", "cropped", "helped", "hurt"):
        table.add_column(name, justify="right")
    for row in result.long_tokens:
        table.add_row(
            format_length(row["length"]),
            str(row["tokens"]),
            _number(row["loss"]),
            _number(row["cropped_loss"]),
            f"{row['helped']:.2%}",
            f"{row['hurt']:.2%}",
        )
    return table


def _ways_table(what: str, against: str, lengths: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=f"{what} (tail loss against {against}; retrieval)", title_justify="left")
    table.add_column("")
    for length in lengths:
        table.add_column(f"tail {format_length(length)}", justify="right")
    for length in lengths:
        table.add_column(f"found {format_length(length)}", justify="right")
    for row in rows:
        losses = {part["length"]: f"{part['against_full']:+.3f}" for part in row["loss"]}
        found = {part["length"]: f"{part['accuracy']:.2f}" for part in row["retrieval"]}
        cells = [part.get(length, "-") for part in (losses, found) for length in lengths]
        table.add_row(row["name"], *cells)
    return table


def _health_table(result: EvalResult) -> Any:
    from rich.table import Table

    assert result.health is not None
    table = Table(
        title="Health (mean over layers; entropy share 1 is uniform, 0 one peak)", title_justify="left"
    )
    for name in (
        "length",
        "entropy share",
        "first 4 tokens",
        "peak",
        "attention std",
        "output std",
        "gradient norm",
    ):
        table.add_column(name, justify="right")
    output = {row["length"]: row for row in result.health["output"]}
    gradient = {row["length"]: row for row in result.health["gradient"]}
    for length in result.lengths:
        rows = [row for row in result.health["attention"] if row["length"] == length]
        means = {
            key: sum(row[key] for row in rows) / len(rows)
            for key in ("entropy_share", "first_tokens", "peak", "logit_std")
        }
        table.add_row(
            format_length(length),
            *(_number(means[key]) for key in ("entropy_share", "first_tokens", "peak", "logit_std")),
            _number(output[length]["std"]),
            _number(gradient[length]["norm"]),
        )
    return table
