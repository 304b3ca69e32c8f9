"""How a comparison looks in a terminal: the table, a small curve, the verdict. No measuring here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.units import format_length

if TYPE_CHECKING:
    from rich.table import Table

    from ropewalk.evaluation.compare.comparison import Step
    from ropewalk.evaluation.compare.result import CompareResult, Row

BLOCKS = " ▁▂▃▄▅▆▇█"


def table_of(result: CompareResult, limit: int | None = None) -> Table:
    """The controls, then the methods from best to worst for text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("method")
    table.add_column("in window", justify="right")
    for length in result.lengths:
        table.add_column(f"at {format_length(length)}", justify="right")
    table.add_column("against cropped", justify="right")
    if result.tasks:
        table.add_column("found", justify="right")
        table.add_column("by depth")
    for name, row in result.controls.items():
        table.add_row("", f"[dim]{name}[/dim]", *_cells(row, result))
    shown = result.methods[:limit]
    for row in shown:
        style = "bold" if row.name in (result.verdict.text, result.verdict.retrieval) else ""
        table.add_row(str(row.rank_text), row.name, *_cells(row, result), style=style)
    return table


def _cells(row: Row, result: CompareResult) -> list[str]:
    losses = {item.length: item.loss for item in row.loss}
    cells = [f"{row.loss_in_window:.3f}", *(f"{losses[length]:.3f}" for length in result.lengths)]
    gap = row.loss_vs_cropped
    cells.append("" if gap is None else f"{gap.difference:+.3f} ± {(gap.high - gap.low) / 2:.3f}")
    if result.tasks:
        cells_at = [item for item in row.retrieval if item.length == result.target_length]
        places = sorted({item.depth for item in cells_at})
        depths = [_mean([item.accuracy for item in cells_at if item.depth == place]) for place in places]
        cells += [f"{row.retrieval_at_target:.0%}", bars(depths, 0.0, 1.0)[0]]
    return cells


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def bars(values: Sequence[float], low: float, high: float, height: int = 1) -> list[str]:
    """Values as columns of eighth blocks, `height` lines, the top one first. A value at `low` keeps a thin foot.

    >>> bars([0.0, 0.5, 1.0], 0.0, 1.0)
    ['▁▄█']
    """
    span = (high - low) or 1.0
    eighths = [max(1, round(8 * height * min(1.0, max(0.0, (value - low) / span)))) for value in values]
    return [
        "".join(BLOCKS[min(8, max(0, filled - 8 * line))] for filled in eighths)
        for line in reversed(range(height))
    ]


def curve_of(result: CompareResult, height: int = 3) -> list[str]:
    """What the unmodified model and the best method lose along the text, one scale for both.

    Text is harder in one place than in another; that cancels by taking each place's lowest loss over all rows away.
    """
    drawn = [result.controls["unmodified"], *result.methods[:1]]
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


def show(screen: Any, result: CompareResult, *, limit: int | None = None) -> None:
    """Table, curve, verdict."""
    screen.print(
        f"{result.model}: window {format_length(result.original_length)}, "
        f"target {format_length(result.target_length)} ({result.factor:g} times), {result.windows} windows of "
        f"{result.text}"
        + (f", {result.questions} questions ({', '.join(result.tasks)})" if result.tasks else "")
    )
    screen.print(
        "Loss in nats per token, lower is better; `found` is the share of hidden values retrieved.\n"
    )
    screen.print(table_of(result, limit))
    if limit is not None and len(result.methods) > limit:
        screen.print(f"[dim]and {len(result.methods) - limit} more, all in the run folder[/dim]")
    twins = [f"{row.name} = {', '.join(row.same_as)}" for row in result.methods if row.same_as]
    if twins:
        screen.print(f"\n[dim]Same frequencies: {'; '.join(twins)}.[/dim]")
    if result.not_measured:
        names = ", ".join(item.name for item in result.not_measured)
        screen.print(f"[dim]Not measured (each with its reason in the run folder): {names}.[/dim]")
    if result.methods:
        screen.print("\nAlong the text, nats per token above the lowest of all methods at each place:\n")
        for line in curve_of(result):
            screen.print(line, markup=False)
    screen.print(f"\n{result.verdict.summary}", style="bold")


class Watch:
    """Progress on stderr: a bar on a terminal, one line a finished candidate otherwise."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from ropewalk.cli.common import console

        self.screen = console(err=True)
        self.quiet = quiet
        self.bar: Any = None
        if not quiet and self.screen.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=32),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=self.screen,
                transient=True,
            )
            self.task = self.bar.add_task("loading", total=1.0, note="")

    def __enter__(self) -> Watch:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *args: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, step: Step) -> None:
        """Called by `compare` as it goes on."""
        if self.bar is not None:
            note = f"{step.number + (step.row is not None)}/{step.total}"
            self.bar.update(
                self.task,
                total=step.total,
                completed=step.number + step.share,
                description=step.name,
                note=note,
            )
        if step.row is None or self.quiet:
            return
        found = "" if step.row.retrieval_at_target is None else f"  found {step.row.retrieval_at_target:.0%}"
        kept = "  (kept from before)" if step.kept else ""
        line = f"{step.name:<24} loss {step.row.loss_at_target:.3f}{found}  {step.row.seconds:.1f} s{kept}"
        (self.bar.console if self.bar is not None else self.screen).print(line, markup=False)
