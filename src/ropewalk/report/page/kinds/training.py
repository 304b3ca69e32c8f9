"""`train`: what the run reached, its stages and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.report.page.content import (
    Cell,
    Column,
    Content,
    Table,
    Tile,
    Verdict,
    content_of,
    key_table,
    length_cell,
    number_cell,
    shown_number,
    value_cell,
)
from ropewalk.report.page.kinds.measured import figures
from ropewalk.report.reading import number
from ropewalk.report.views import RunView
from ropewalk.units import format_length


@content_of("train")
def content(view: RunView) -> Content:
    """Verdict, tiles, tables and figures of a training run."""
    final = view.result.get("final")
    tables = [_stages(view), _evaluations(view)]
    if isinstance(final, Mapping):
        tables.append(key_table("At the end", final, f"{view.id}/result.json/final"))
    tables.append(_checkpoints(view))
    return Content.of(_verdict(view), _tiles(view), tables, figures(view))


def _steps(view: RunView) -> list[Mapping[str, Any]]:
    return [line for line in view.metrics if line.get("kind") != "evaluation"]


def _held_out(view: RunView) -> list[Mapping[str, Any]]:
    return [line for line in view.metrics if line.get("kind") == "evaluation"]


def _verdict(view: RunView) -> Verdict:
    steps, held_out = _steps(view), _held_out(view)
    measured = [
        (line.get("step"), loss) for line in held_out if (loss := number(line.get("loss"))) is not None
    ]
    losses, tone = [loss for _, loss in measured], ""
    # Only the measurement before the first step says what the training changed.
    from_start = len(losses) > 1 and measured[0][0] == 0
    if from_start:
        word = "fell" if losses[-1] < losses[0] else "rose"
        headline = f"Held-out loss {word} from {losses[0]:.3f} to {losses[-1]:.3f} nats per token."
        tone = "" if losses[-1] < losses[0] else "bad"
    else:
        trained = [loss for line in steps if (loss := number(line.get("loss"))) is not None]
        if not trained:
            return Verdict("No step of this training was recorded.", tone="muted")
        headline = f"Training loss ended at {trained[-1]:.3f} nats per token."
    lengths = list(dict.fromkeys(int(length) for line in steps if (length := number(line.get("length")))))
    points = (
        [f"Sample lengths: {', '.join(format_length(length) for length in lengths)} tokens."]
        if lengths
        else []
    )
    if losses and not from_start:
        points.append(f"Held-out loss at the end: {losses[-1]:.3f} nats per token.")
    if view.status in ("running", "unfinished"):
        reached = steps[-1].get("step") if steps else 0
        points.append(f"The run has not ended ({view.status}): so it stood at step {reached}.")
    return Verdict(headline, tuple(points), "bad" if tone == "bad" else "")


def _tiles(view: RunView) -> list[Tile]:
    steps, held_out = _steps(view), _held_out(view)
    tiles = []
    for lines, label in ((held_out, "held-out loss"), (steps, "training loss")):
        if lines and (loss := number(lines[-1].get("loss"))) is not None:
            tiles.append(Tile(label, shown_number(loss), "nats per token, last", f"{view.id}/metrics.jsonl"))
    if steps:
        last = steps[-1]
        for key, label in (("step", "steps"), ("tokens", "tokens")):
            value = number(last.get(key))
            if value is not None:
                tiles.append(Tile(label, shown_number(int(value)), "", f"{view.id}/metrics.jsonl"))
        speeds = [speed for line in steps if (speed := number(line.get("tokens_per_s")))]
        if speeds:
            # The median: warming up and saving make steps slow that say nothing about the others.
            middle = sorted(speeds)[len(speeds) // 2]
            tiles.append(
                Tile(
                    "speed",
                    shown_number(int(middle)),
                    "tokens per second, median",
                    f"{view.id}/metrics.jsonl",
                )
            )
    return tiles


def _stages(view: RunView) -> Table | None:
    steps = [line for line in _steps(view) if number(line.get("length")) is not None]
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for line in steps:
        groups.setdefault(int(number(line.get("stage")) or 0), []).append(line)
    if not groups:
        return None
    source = f"{view.id}/metrics.jsonl"
    rows = tuple(
        (
            number_cell(stage + 1, source),
            length_cell(number(lines[-1].get("length")), source),
            number_cell(lines[-1].get("step"), source),
            number_cell(lines[0].get("loss"), source),
            number_cell(lines[-1].get("loss"), source),
        )
        for stage, lines in sorted(groups.items())
    )
    columns = (
        Column("stage"),
        Column("sample length", "tokens"),
        Column("last step"),
        Column("first loss", "nats"),
        Column("last loss", "nats"),
    )
    return Table("Length stages", columns, rows, sources=(source,))


def _evaluations(view: RunView) -> Table | None:
    lines = _held_out(view)
    if not lines:
        return None
    source = f"{view.id}/metrics.jsonl"
    names = list(
        dict.fromkeys(name for line in lines for name in line if name == "loss" or name.startswith("loss@"))
    )
    columns = (
        Column("step"),
        *(Column(f"loss at {name[5:]}" if "@" in name else "mean loss", "nats") for name in names),
    )
    rows = tuple(
        (number_cell(line.get("step"), source), *(number_cell(line.get(name), source) for name in names))
        # The newest: thousands of rows say no more than the curve does.
        for line in lines[-200:]
    )
    return Table("Held-out loss", columns, rows, sources=(source,))


def _checkpoints(view: RunView) -> Table | None:
    found = view.result.get("checkpoints")
    if not isinstance(found, list) or not found:
        return None
    source = f"{view.id}/result.json/checkpoints"
    rows = []
    for index, item in enumerate(found):
        if isinstance(item, Mapping):
            text = ", ".join(
                f"{key} {value}" for key, value in item.items() if not isinstance(value, dict | list)
            )
            rows.append((number_cell(index + 1), Cell(text, text, f"{source}/{index}")))
        else:
            rows.append((number_cell(index + 1), value_cell(item, f"{source}/{index}")))
    return Table(
        "Checkpoints", (Column("number"), Column("checkpoint", numeric=False)), tuple(rows), sources=(source,)
    )
