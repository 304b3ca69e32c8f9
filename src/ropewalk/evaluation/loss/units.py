"""Text measured: the units of work of a loss table, shared between processes, kept as they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss.controls import Crop, read_cropped
from ropewalk.evaluation.loss.reading import Reading, forwards_needed, read_prefix
from ropewalk.evaluation.loss.sliding import plan_windows, window_mean, windows_loss
from ropewalk.evaluation.work.cells import Cells, LossArray
from ropewalk.evaluation.work.processes import Processes
from ropewalk.text.segments import Segment, Segments

OnTokens = Callable[[int], None]


@dataclass(frozen=True)
class Unit:
    """Work that is done whole: the cells it fills, how, and how many tokens that reads."""

    names: tuple[str, ...]
    where: str
    tokens: int
    run: Callable[[], Sequence[LossArray]]


def prefix_units(engine: Engine, segments: Segments, lengths: Sequence[int], label: str) -> list[Unit]:
    """One forward a segment (or batch of equal segments) and rotation rule."""
    units = []
    for group in forwards_needed(engine, lengths):
        longest = max(group)
        rows = engine.rows_for(longest)
        for first in range(0, len(segments.items), rows):
            batch = segments.items[first : first + rows]
            names = tuple(f"{label}-{longest}-{first + offset:05d}" for offset in range(len(batch)))
            units.append(
                Unit(names, _where(batch), longest * len(batch), partial(read_prefix, engine, batch, longest))
            )
    return units


# Functions of their own, so that each unit holds its own batch: a lambda in the loop would hold the last one.


def window_units(engine: Engine, segments: Segments, window: int, stride: int, label: str) -> list[Unit]:
    """One unit a segment: all windows of `window` tokens over it."""
    units = []
    for index, segment in enumerate(segments.items):
        windows = plan_windows(len(segment.ids), window, stride)
        tokens = sum(one.end - one.begin for one in windows)
        run = _windows(engine, segment, window, stride, segments.opening)
        units.append(Unit((f"{label}-{window}-{index:05d}",), _where([segment]), tokens, run))
    return units


def _windows(
    engine: Engine, segment: Segment, window: int, stride: int, opening: Sequence[int]
) -> Callable[[], Sequence[LossArray]]:
    def run() -> Sequence[LossArray]:
        windows = plan_windows(len(segment.ids), window, stride)
        return [windows_loss(engine, segment.ids, windows, opening=opening)]

    return run


def cropped_units(
    engine: Engine, segments: Segments, crop: Crop, label: str = "cropped", *, first: int = 1
) -> list[Unit]:
    """The tokens from `first` on, on cropped context, one unit a segment."""
    units = []
    for index, segment in enumerate(segments.items):
        begin = max(0, first + 1 - crop.length)
        windows = plan_windows(len(segment.ids) - begin, crop.length, crop.stride)
        tokens = sum(one.end - one.begin for one in windows)
        run = _cropped(engine, segment, crop, first, segments.opening)
        units.append(Unit((crop_cell(label, crop, first, index),), _where([segment]), tokens, run))
    return units


def crop_cell(label: str, crop: Crop, first: int, index: int) -> str:
    """The name of one segment's cropped reading."""
    return f"{label}-crop{crop.length}by{crop.stride}-{first}-{index:05d}"


def _cropped(
    engine: Engine, segment: Segment, crop: Crop, first: int, opening: Sequence[int]
) -> Callable[[], Sequence[LossArray]]:
    return lambda: [read_cropped(engine, segment, crop, first=first, opening=opening)]


def _where(batch: Sequence[Segment]) -> str:
    return ", ".join(f"{segment.document} (segment {segment.index})" for segment in batch)


def run_units(
    units: Sequence[Unit], cells: Cells, processes: Processes, on_tokens: OnTokens
) -> dict[str, LossArray]:
    """Every cell by name. Kept cells are read, this process's share of the others is computed and kept."""
    found: dict[str, LossArray] = {}
    failure: RopewalkError | None = None
    for number, unit in enumerate(units):
        if not processes.mine(number):
            continue
        kept = [cells.losses(name) for name in unit.names]
        if all(row is not None for row in kept):
            rows: Sequence[LossArray] = [row for row in kept if row is not None]
        else:
            try:
                rows = unit.run()
            except RopewalkError as error:
                failure = RopewalkError(f"{unit.where}: {error.message}", hint=error.hint)
                break
            for name, row in zip(unit.names, rows, strict=True):
                cells.keep_losses(name, row)
        found.update(zip(unit.names, rows, strict=True))
        on_tokens(unit.tokens)
    processes.agree(failure)
    return processes.merged(found)


def prefix_reading(
    engine: Engine, lengths: Sequence[int], found: dict[str, LossArray], label: str, count: int
) -> Reading:
    """Cells of `prefix_units` as a reading."""
    losses: dict[int, list[LossArray]] = {}
    for group in forwards_needed(engine, lengths):
        rows = [found[f"{label}-{max(group)}-{index:05d}"] for index in range(count)]
        losses.update(dict.fromkeys(group, rows))
    return Reading.prefix(losses)


def sliding_reading(
    segments: Segments,
    lengths: Sequence[int],
    found: dict[str, LossArray],
    label: str,
    stride: int,
    *,
    unweighted: bool,
) -> Reading:
    """Cells of `window_units`, one window size a length, as a reading over whole segments."""
    count = len(segments.items)
    losses = {n: [found[f"{label}-{n}-{index:05d}"] for index in range(count)] for n in lengths}
    means: dict[int, list[float]] = {}
    if unweighted:
        for length, rows in losses.items():
            windows = plan_windows(segments.length, length, stride)
            means[length] = [window_mean(row, windows) for row in rows]
    return Reading(losses, dict.fromkeys(lengths, segments.length), means)


def cropped_reading(
    stops: Mapping[int, int], found: dict[str, LossArray], crop: Crop, count: int, label: str
) -> Reading:
    """The cropped control's cells as a reading; `stops[l]` is where the text of length l ends."""
    rows = [found[crop_cell(label, crop, 1, index)] for index in range(count)]
    if any(not np.isfinite(row[1:]).any() for row in rows):
        raise RopewalkError("the cropped control scored nothing", hint="use a smaller --crop-stride")
    return Reading(dict.fromkeys(stops, rows), stops)
