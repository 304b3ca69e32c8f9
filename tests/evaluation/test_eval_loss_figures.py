"""Windows, crops, tables and units of work, by a reader whose loss says which text it saw and how much of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plain_statistics as plain
import pytest
import torch

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.loss.controls import Crop, read_cropped, tail_difference, with_difference
from ropewalk.evaluation.loss.reading import (
    LengthLoss,
    Reading,
    by_length,
    by_position,
    means,
    perplexity,
    read_prefix,
    tail_start,
)
from ropewalk.evaluation.loss.sliding import Window, plan_windows, window_mean, windows_loss
from ropewalk.evaluation.loss.units import (
    crop_cell,
    cropped_reading,
    cropped_units,
    prefix_reading,
    prefix_units,
    run_units,
    sliding_reading,
    window_units,
)
from ropewalk.evaluation.statistics.intervals import Interval
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.processes import Processes
from ropewalk.text.segments import Segment, Segments


class Telling:
    """Token j of a text that begins with token t has the loss 1000 t + j: so it is known what was read with what."""

    regime = None

    def __init__(self, rows: int = 3) -> None:
        self.rows, self.batches = rows, []

    def rows_for(self, length: int) -> int:
        return self.rows

    def nll(self, ids: Any, *, start: int = 1) -> torch.Tensor:
        texts = torch.as_tensor(ids)
        assert 1 <= start < texts.shape[1]
        self.batches.append(tuple(texts.shape))
        return (1000 * texts[:, :1] + torch.arange(start, texts.shape[1])).float()


def text_of(length: int, first: int = 100) -> np.ndarray:
    return np.arange(first, first + length)


def plain_windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, first scored) until the text is read; one token alone is no window."""
    found, begin, done = [], 0, 1
    while True:
        end = min(begin + window, length)
        found.append((begin, end, done))
        begin, done = begin + stride, end
        if end == length or length - begin < 2:
            return found


GRIDS = [
    (10, 4, 2),
    (10, 4, 4),
    (9, 4, 4),
    (11, 4, 3),
    (30, 7, 1),
    (29, 8, 5),
    (5, 9, 3),
    (12, 12, 12),
    (13, 12, 11),
]


@pytest.mark.parametrize(("length", "window", "stride"), GRIDS)
@pytest.mark.parametrize("opening", [(), (7,), (7, 8, 9)])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_token_of_every_window(
    length: int, window: int, stride: int, opening: Sequence[int], rows: int
) -> None:
    """Read with what stands in its window; the opening takes the place of a later window's first tokens.

    A short last window may have nothing left behind its opening: it is not read.
    """
    planned = plain_windows(length, window, stride)
    windows = plan_windows(length, window, stride)
    assert [(one.begin, one.end, one.first) for one in windows] == planned
    assert [one.scored for one in windows] == [end - first for _, end, first in planned]
    text, wanted = text_of(length), [math.nan] * length
    for begin, end, first in planned:
        opens = begin > 0 and len(opening) > 0
        start = opening[0] if opens else text[begin]
        for place in range(max(first, begin + (len(opening) if opens else 1)), end):
            wanted[place] = 1000.0 * start + place - begin
    engine: Any = Telling(rows)
    found = windows_loss(engine, text, windows, opening=opening)
    np.testing.assert_array_equal(found, np.array(wanted, dtype=np.float32))
    assert found.dtype == np.float32
    # Neighbours of one shape share a forward, as many as it is good for, behind the first, which has no opening.
    batches: list[tuple[int, int, int]] = []
    for begin, end, first in planned:
        if begin and end - begin <= len(opening):
            continue
        same = len(batches) > 1 and batches[-1][1:] == (end - begin, first - begin)
        if same and batches[-1][0] < rows:
            batches[-1] = (batches[-1][0] + 1, *batches[-1][1:])
        else:
            batches.append((1, end - begin, first - begin))
    assert engine.batches == [(count, size) for count, size, _ in batches]
    by_window = [
        np.nanmean(found[first:end]) for _, end, first in planned if not np.isnan(found[first:end]).all()
    ]
    assert len(by_window) == sum(begin == 0 or end - begin > len(opening) for begin, end, _ in planned)
    mean = float(np.mean(np.array(by_window, dtype=np.float64)))
    assert window_mean(found, windows) == pytest.approx(mean)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 0), (4, 5)])
def test_windows_that_cannot_slide(window: int, stride: int) -> None:
    with pytest.raises(UsageError, match=f"window={window}, stride={stride} cannot slide"):
        plan_windows(20, window, stride)
    assert plan_windows(3, 2, 2) == [Window(0, 2, 1)]
    assert plan_windows(3, 2, 1) == [Window(0, 2, 1), Window(1, 3, 2)]


@pytest.mark.parametrize("first", [1, 7, 8, 9, 20, 28])
@pytest.mark.parametrize("end", [30, 29, 26])
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_a_crop_reads_what_is_wanted_from_a_whole_crop_on(first: int, end: int, stride: int) -> None:
    text = text_of(end)
    if first >= end:
        return
    begin = max(0, first + 1 - 8)
    wanted = [math.nan] * end
    for start, last, scored in plain_windows(end - begin, 8, stride):
        for place in range(max(start + scored - start + begin, first), last + begin):
            if place > start + begin:
                wanted[place] = 1000.0 * text[start + begin] + place - start - begin
    engine: Any = Telling()
    segment = Segment("a", 0, text)
    found = read_cropped(engine, segment, Crop(8, stride), first=first)
    np.testing.assert_array_equal(found, np.array(wanted, dtype=np.float32))
    assert not np.isnan(found[first:]).any()


def test_how_a_crop_reads_in_words_and_its_bounds() -> None:
    assert [Crop.of(length) for length in (64, 20, 8, 4, 2, 1)] == [
        Crop(64, 8), Crop(20, 2), Crop(8, 1), Crop(4, 1), Crop(2, 1), Crop(1, 1),
    ]  # fmt: skip
    assert (Crop.of(64, 32), Crop.of(64, 1), Crop.of(3, 1)) == (Crop(64, 32), Crop(64, 1), Crop(3, 1))
    for length, stride in ((64, 33), (64, 0), (3, 2), (1, 2)):
        with pytest.raises(UsageError, match=f"crop_stride={stride} is not between 1 and half of"):
            Crop.of(length, stride)
    assert Crop(64, 1).contexts == "exactly the last 63 tokens"
    assert Crop(64, 2).contexts == "the last 62 to 63 tokens"


def test_what_is_gained_over_a_control_has_its_sign_turned() -> None:
    row = LengthLoss(64, Interval(2.0, 1.5, 2.5, 4), Interval(1.0, -0.25, 2.25, 4))
    plainly = {
        "length": 64, "loss": 2.0, "perplexity": math.exp(2.0), "ci": [1.5, 2.5], "tail_loss": 1.0,
        "tail_ci": [0.0, 2.25], "units": 4,
    }  # fmt: skip
    assert row.to_json() == plainly
    said = with_difference(row, Interval(-0.5, -0.75, 0.25, 4))
    assert said == plainly | {"tail_gain": 0.5, "tail_gain_ci": [-0.25, 0.75]}
    for low, high in ((None, None), (None, 1.0), (1.0, None)):
        assert with_difference(row, Interval(-0.5, low, high, 2))["tail_gain_ci"] is None
    below = LengthLoss(64, Interval(0.1, -0.1, 0.3, 2), Interval(0.1, None, None, 2)).to_json()
    assert (below["ci"], below["tail_ci"], below["units"]) == ([0.0, 0.3], None, 2)


def test_tails_tables_and_differences_by_hand() -> None:
    """A quarter of the length, one token at the least, and never the first, which nothing comes before."""
    assert [tail_start(length) for length in (1, 2, 3, 4, 7, 8, 9, 100)] == [1, 1, 2, 3, 6, 6, 7, 75]
    rng = np.random.default_rng(0)
    owners = [0, 0, 1, 2, 3, 3]
    ours, theirs = ([rng.normal(2, 1, 100) for _ in owners] for _ in range(2))
    for row in (*ours, *theirs):
        row[0] = np.nan
    ours[2][80] = np.nan
    reading = Reading({100: ours, 40: ours}, {100: 100, 40: 40}, {40: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    control = Reading.prefix(dict.fromkeys((100, 40), theirs))
    table = by_length(reading, [100, 40], owners)
    assert [row.length for row in table] == [40, 100]
    # The losses of a length that are no means over tokens come as they are.
    wholes = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [float(np.nanmean(row[1:100])) for row in ours])
    for row, whole in zip(table, wholes, strict=True):
        start, stop = row.length - row.length // 4, row.length
        tails = [[float(np.nanmean(one[start:stop])) for one in rows] for rows in (ours, theirs)]
        for found, values in ((row.loss, whole), (row.tail, tails[0])):
            said = plain.interval(values, owners)
            assert (found.mean, found.units) == (pytest.approx(said[0]), 4)
            assert found.pair == pytest.approx(said[1:3], abs=1e-6)
        apart = tail_difference(reading, control, row.length, owners)
        said = plain.interval([a - b for a, b in zip(*tails, strict=True)], owners)
        assert (apart.mean, apart.pair) == (pytest.approx(said[0]), pytest.approx(said[1:3], abs=1e-6))
    assert means(ours, 3, 7).tolist() == pytest.approx([float(row[3:7].mean()) for row in ours])


def test_the_curve_has_thirty_two_points_where_there_are_tokens_for_them() -> None:
    rows = [np.arange(3000.0) for _ in range(3)]
    curve = by_position([*rows, np.arange(2500.0)], [0, 1, 2, 2])
    edges = sorted({round(2500 ** (step / 32)) for step in range(33)})
    # The first edges fall together: there is no half token.
    assert [(point["start"], point["end"]) for point in curve] == list(itertools.pairwise(edges))
    assert len(edges) < 33
    assert curve[-1]["loss"] == pytest.approx((edges[-2] + edges[-1] - 1) / 2)
    assert [(point["start"], point["end"]) for point in by_position([np.arange(3.0)])] == [(1, 2), (2, 3)]
    low = by_position([np.array([0.0, value]) for value in (0.0, 0.0, 3.0)])[0]
    assert low["ci"][0] == 0.0


def test_perplexity_is_infinite_beyond_what_a_float_holds() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(699.5) == math.exp(699.5)
    assert perplexity(700.0) == perplexity(1e4) == math.inf


def test_readings_of_the_first_tokens() -> None:
    for length, rows in ((1, [3]), (4, [4, 3]), (4, [3, 3])):
        with pytest.raises(UsageError, match=f"length {length} does not fit"):
            Reading.prefix({length: [np.zeros(size) for size in rows]})
    made = Reading.prefix({2: [np.zeros(2)], 4: [np.zeros(4)]})
    assert (dict(made.stops), len(made.longest[0]), dict(made.means)) == ({2: 2, 4: 4}, 4, {})
    engine: Any = Telling()
    rows = read_prefix(engine, [Segment("a", 0, text_of(9)), Segment("b", 0, text_of(9, 200))], 5)
    np.testing.assert_array_equal(
        rows, np.array([[np.nan] + [first * 1000 + j for j in range(1, 5)] for first in (100, 200)])
    )
    assert engine.batches == [(2, 5)]


def segments_of(count: int, length: int = 20, opening: tuple[int, ...] = ()) -> Segments:
    items = [
        Segment(f"doc {number // 2}", number % 2, text_of(length, 100 * (number + 1)))
        for number in range(count)
    ]
    return Segments(tuple(items), length, opening, False, ())


def test_units_of_whole_readings() -> None:
    engine: Any = Telling(rows=2)
    units = prefix_units(engine, segments_of(5), [8, 20, 12], "m")
    assert [(unit.names, unit.where, unit.tokens) for unit in units] == [
        (("m-20-00000", "m-20-00001"), "doc 0 (segment 0), doc 0 (segment 1)", 40),
        (("m-20-00002", "m-20-00003"), "doc 1 (segment 0), doc 1 (segment 1)", 40),
        (("m-20-00004",), "doc 2 (segment 0)", 20),
    ]
    told: list[int] = []
    found = run_units(units, Cells(None), Processes(), told.append)
    assert told == [40, 40, 20]
    reading = prefix_reading(engine, [8, 20, 12], found, "m", 5)
    assert sorted(reading.losses) == [8, 12, 20]
    for number, row in enumerate(reading.losses[8]):
        assert row[1:].tolist() == [100_000.0 * (number + 1) + place for place in range(1, 20)]


@pytest.mark.parametrize("unweighted", [False, True])
def test_units_of_windows(unweighted: bool) -> None:
    engine: Any = Telling()
    segments, lengths = segments_of(2, opening=(7,)), [8, 12]
    units = [unit for length in lengths for unit in window_units(engine, segments, length, 3, "m")]
    assert [(unit.names, unit.where) for unit in units] == [
        ((f"m-{length}-0000{number}",), f"doc 0 (segment {number})")
        for length in lengths
        for number in (0, 1)
    ]
    assert [unit.tokens for unit in units] == [
        sum(end - begin for begin, end, _ in plain_windows(20, length, 3)) for length in (8, 8, 12, 12)
    ]
    found = run_units(units, Cells(None), Processes(), lambda tokens: None)
    reading = sliding_reading(segments, lengths, found, "m", 3, unweighted=unweighted)
    # Every length is read over the whole segment.
    assert dict(reading.stops) == {8: 20, 12: 20}
    for length in lengths:
        for number in (0, 1):
            wanted = windows_loss(
                engine, segments.items[number].ids, plan_windows(20, length, 3), opening=(7,)
            )
            np.testing.assert_array_equal(reading.losses[length][number], wanted)
        if unweighted:
            windows = [(first, end) for _, end, first in plain_windows(20, length, 3)]
            assert reading.means[length] == pytest.approx(
                [
                    float(np.mean([row[a:b].astype(float).mean() for a, b in windows]))
                    for row in reading.losses[length]
                ]
            )
    assert bool(reading.means) is unweighted


@pytest.mark.parametrize("first", [1, 12])
def test_units_of_cropped_readings(first: int) -> None:
    engine: Any = Telling()
    segments, crop = segments_of(3, opening=(7,)), Crop(8, 3)
    units = cropped_units(engine, segments, crop, "plain", first=first)
    begin = max(0, first - 7)
    tokens = sum(end - start for start, end, _ in plain_windows(20 - begin, 8, 3))
    assert [(unit.names, unit.tokens) for unit in units] == [
        ((f"plain-crop8by3-{first}-0000{number}",), tokens) for number in range(3)
    ]
    assert units[2].where == "doc 1 (segment 0)"
    found = run_units(units, Cells(None), Processes(), lambda tokens: None)
    for number, segment in enumerate(segments.items):
        wanted = read_cropped(engine, segment, crop, first=first, opening=(7,))
        np.testing.assert_array_equal(found[crop_cell("plain", crop, first, number)], wanted)
    if first == 1:
        reading = cropped_reading({8: 8, 20: 20}, found, crop, 3, "plain")
        assert dict(reading.stops) == {8: 8, 20: 20}
        assert all(
            reading.losses[8][number] is found[crop_cell("plain", crop, 1, number)] for number in range(3)
        )
        assert cropped_units(engine, segments, crop)[0].names == ("cropped-crop8by3-1-00000",)


def test_a_crop_that_scored_nothing_is_said_and_one_that_scored_little_is_not() -> None:
    crop = Crop(8, 3)
    for rows, scored in (
        ([[0.0, math.nan, math.nan], [0.0, 1.0, 1.0]], False),
        ([[math.nan, math.nan, 1.0], [math.nan, 1.0, math.nan]], True),
        ([[math.nan, 2.0, math.nan], [math.nan, math.nan, 2.0]], True),
    ):
        found = {crop_cell("c", crop, 1, number): np.array(row) for number, row in enumerate(rows)}
        if scored:
            assert len(cropped_reading({3: 3}, found, crop, 2, "c").losses[3]) == 2
        else:
            with pytest.raises(RopewalkError, match="the cropped control scored nothing"):
                cropped_reading({3: 3}, found, crop, 2, "c")


def test_what_is_kept_is_not_read_again_and_a_half_kept_unit_is(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    first: Any = Telling(rows=2)
    whole = run_units(prefix_units(first, segments_of(4), [20], "m"), cells, Processes(), lambda tokens: None)
    assert cells.written == 4
    (tmp_path / "cells" / "m-20-00002.npy").unlink()
    again: Any = Telling(rows=2)
    told: list[int] = []
    found = run_units(prefix_units(again, segments_of(4), [20], "m"), cells, Processes(), told.append)
    assert (again.batches, told, cells.written) == ([(2, 20)], [40, 40], 6)
    assert found.keys() == whole.keys()
    for name, row in whole.items():
        np.testing.assert_array_equal(found[name], row)


def test_a_unit_that_fails_is_named_and_the_units_of_others_are_theirs() -> None:
    class Failing(Telling):
        def nll(self, ids: Any, *, start: int = 1) -> torch.Tensor:
            if int(torch.as_tensor(ids)[0, 0]) == 200:
                raise RopewalkError("no room", hint="a larger machine")
            return super().nll(ids, start=start)

    engine: Any = Failing(rows=1)
    units = prefix_units(engine, segments_of(4), [20], "m")
    told: list[int] = []
    with pytest.raises(RopewalkError, match=r"doc 0 \(segment 1\): no room") as caught:
        run_units(units, Cells(None), Processes(), told.append)
    assert (caught.value.hint, told, len(engine.batches)) == ("a larger machine", [20], 1)

    class Alone(Processes):
        """One of two processes, whose mate has nothing to say."""

        def gather(self, value: Any) -> list[Any]:
            return [value]

    second: Any = Telling(rows=1)
    found = run_units(prefix_units(second, segments_of(4), [20], "m"), Cells(None), Alone(1, 2), told.append)
    assert sorted(found) == ["m-20-00001", "m-20-00003"]
