"""How a comparison looks in a terminal: the table, a small curve, the verdict. No measuring here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.cli.eval_view import how_much
from ropewalk.cli.tables import Column, show_table
from ropewalk.units import format_length

if TYPE_CHECKING:
    from ropewalk.evaluation.result import CompareResult, Paired, Row

BLOCKS = " ▁▂▃▄▅▆▇█"


def show(screen: Any, result: CompareResult, *, limit: int | None = None, quiet: bool = False) -> None:
    """What was measured, the table, the curve, the verdict."""
    for line in _opening(result):
        screen.print(line, markup=False)
    screen.print()
    shown = result.methods[:limit]
    columns = columns_of(result)
    rows = [["", name, *_cells(row, result)] for name, row in result.controls.items()]
    rows += [[f"{row.rank}{'*' if row.group else ' '}", row.name, *_cells(row, result)] for row in shown]
    show_table(screen, columns, rows)
    if limit is not None and len(result.methods) > limit:
        screen.print(f"[dim]and {len(result.methods) - limit} more, all in the run folder[/dim]")
    if not quiet:
        _show_notes(screen, result)
    if result.methods and result.methods[0].curve:
        screen.print("\nAlong the text, nats per token above the lowest of all methods at each place:\n")
        for line in curve_of(result):
            screen.print(line, markup=False)
    screen.print()
    for point in result.verdict.points:
        screen.print(point, style="bold", markup=False)


def _opening(result: CompareResult) -> list[str]:
    text, said = result.text, []
    about = (
        f"{result.model}: window {format_length(result.original_length)}, "
        f"target {format_length(result.target_length)} ({result.factor:g} times)"
    )
    if text is not None:
        about += f", {text.segments} segments of {len(text.documents)} documents ({text.source})"
    if result.tasks and result.questions:
        about += f", {result.questions} questions ({', '.join(result.tasks)})"
    said.append(about)
    if text is not None:
        said.append(
            "Loss in nats per token over the last quarter before a length; lower is better. Cropped: each token sees "
            f"{result.contexts}."
        )
    if result.key_tokens is not None:
        keys = result.key_tokens
        said.append(
            f"Key tokens: {keys['tokens']} of those beyond the window ({keys['share']:.2%}) gain {keys['gain']:g} nats "
            f"from far context and then have a log-probability of {keys['floor']:g} or more, by {keys['reference']}; "
            f"{keys['reverse']} lose as much."
        )
    return said


def columns_of(result: CompareResult) -> list[Column]:
    """Retrieval and key tokens first; loss by length leaves for the line under a row where the screen is narrow."""
    columns = [Column("", right=True), Column("method")]
    if result.tasks and result.questions:
        columns += [Column("found", right=True), Column("by depth", below=2)]
    if result.text is not None:
        told = result.key_tokens is not None and result.key_tokens["told"]
        columns += [Column("key tokens" if told else "(key tokens)", right=True, below=3)]
        columns += [
            Column(
                f"at {format_length(length)}", right=True, below=0 if length == result.target_length else 1
            )
            for length in result.lengths
        ]
        columns += [Column("against cropped", right=True, below=4), Column("in window", right=True)]
    return columns


def _cells(row: Row, result: CompareResult) -> list[str]:
    cells: list[str] = []
    if result.tasks and result.questions:
        found = row.retrieval_at_target
        cells += ["" if found is None else f"{found:.0%}", bars(_by_depth(row, result), 0.0, 1.0)[0]]
    if result.text is not None:
        losses = {item.length: item.tail_loss for item in row.loss}
        cells += ["" if row.key_token_loss is None else f"{row.key_token_loss:.3f}"]
        cells += [f"{losses[length]:.3f}" for length in result.lengths]
        cells += [_gap(row.loss_vs_cropped), f"{row.loss_in_window:.3f}"]
    return cells


def _by_depth(row: Row, result: CompareResult) -> list[float]:
    here = [
        item for item in row.retrieval if item["length"] == result.target_length and item["depth"] is not None
    ]
    places = sorted({item["depth"] for item in here})
    found = [[item["accuracy"] for item in here if item["depth"] == place] for place in places]
    return [sum(values) / len(values) for values in found]


def _gap(gap: Paired | None) -> str:
    if gap is None:
        return ""
    if gap.low is None or gap.high is None:
        return f"{gap.difference:+.3f}"
    return f"{gap.difference:+.3f} ± {(gap.high - gap.low) / 2:.3f}"


def _show_notes(screen: Any, result: CompareResult) -> None:
    notes = []
    if any(row.group for row in result.methods[1:]):
        notes.append("* not to be told apart from the best by this run")
    twins = [f"{row.name} = {', '.join(row.same_as)}" for row in result.methods if row.same_as]
    if twins:
        notes.append(f"Same frequencies: {'; '.join(twins)}.")
    if result.not_measured:
        names = ", ".join(item.name for item in result.not_measured)
        notes.append(f"Not measured (each with its reason in the run folder): {names}.")
    if result.text is not None:
        notes += how_much(result.text)
    notes += _served(result)
    notes += [f"{remark}." for remark in result.remarks]
    if notes:
        screen.print()
    for note in notes:
        screen.print(note, style="dim", markup=False)


def _served(result: CompareResult) -> list[str]:
    """Which programs are known to compute the best method exactly on this model."""
    from ropewalk.errors import RopewalkError
    from ropewalk.models.facts import read_facts
    from ropewalk.models.stretch import stretch_for
    from ropewalk.runtimes import answers, job_for

    best = result.methods[0] if result.methods else None
    # A schedule of a file is nobody's method: what programs know by name says nothing about it.
    if best is None or best.method is None or best.factor is None or best.file is not None:
        return []
    try:
        facts = read_facts(result.model)
        made = stretch_for(facts, best.method, factor=best.factor, parameters=best.parameters).schedule
        found = answers(job_for(facts, made, target_length=result.target_length))
    except RopewalkError:
        # Maps and caches are no schedules, and a model that has moved away cannot be asked about.
        return []
    exact = ", ".join(name for name, answer in found.items() if answer.exact) or "none that is known"
    return [f"{best.name} is served exactly by: {exact} (`ropewalk export` says why not by the others)."]


def bars(values: Sequence[float], low: float, high: float, height: int = 1) -> list[str]:
    """Values as columns of eighth blocks, `height` lines, the top one first. A value at `low` keeps a thin foot.

    >>> bars([0.0, 0.5, 1.0], 0.0, 1.0)
    ['▁▄█']
    """
    span = (high - low) or 1.0
    # At least a foot: an empty place would look like one that was not measured.
    eighths = [max(1, round(8 * height * min(1.0, max(0.0, (value - low) / span)))) for value in values]
    return [
        "".join(BLOCKS[min(8, max(0, filled - 8 * line))] for filled in eighths)
        for line in reversed(range(height))
    ]


def curve_of(result: CompareResult, height: int = 3) -> list[str]:
    """What the unmodified model and the first row lose along the text, one scale for both.

    Text is harder in one place than in another; that cancels by taking each place's lowest loss over all rows away.
    """
    drawn = [result.controls["unmodified"], *result.methods[:1]]
    # The unmodified model counts too: past its window it is seldom the lowest, inside it often is.
    lowest = [min(values) for values in zip(*(row.curve for row in [drawn[0], *result.methods]), strict=True)]
    above = [[value - least for value, least in zip(row.curve, lowest, strict=True)] for row in drawn]
    high = max(max(values) for values in above)
    width = max(len(row.name) for row in drawn)
    lines = []
    for row, values in zip(drawn, above, strict=True):
        for number, line in enumerate(bars(values, 0.0, high, height)):
            label = row.name if number == height - 1 else ""
            edge = f"{high:.2f}" if number == 0 else "0" if number == height - 1 else ""
            lines.append(f"{label:>{width}} {line} {edge}")
        lines.append("")
    return [*lines[:-1], f"{'':>{width}} {_axis(result, len(lowest))}"]


def _axis(result: CompareResult, width: int) -> str:
    """The original window and the target under the curve."""
    at = round(width * result.original_length / result.target_length)
    window, target = format_length(result.original_length), format_length(result.target_length)
    return f"{'^' + window:>{at + len(window)}}{target + ' tokens':>{max(1, width - at - len(window))}}"
