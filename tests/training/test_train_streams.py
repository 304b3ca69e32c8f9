"""Rows from documents: nothing lost, nothing read twice, the same after a stop; whole documents side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.errors import UsageError
from ropewalk.training.data.streams import Documents, DocumentStream, FittedStream

PAD = 999_999


class Numbers:
    """A tokenizer for texts that are lists of numbers."""

    bos_token_id = eos_token_id = None

    def __call__(self, text: str, **options: Any) -> Any:
        return {"input_ids": [int(word) for word in text.split()]}


def documents_of(sizes: list[int]) -> Documents:
    """Documents whose tokens are all different: 1, 2, 3, ... through all of them."""
    starts = np.cumsum([1, *sizes])
    texts = [" ".join(map(str, range(start, start + size))) for start, size in zip(starts, sizes)]
    return Documents([(f"d{number}", text) for number, text in enumerate(texts)], Numbers())


SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, length=st.integers(1, 17), width=st.integers(1, 9), epochs=st.integers(1, 3))
def test_an_epoch_reads_every_token_once(sizes: list[int], length: int, width: int, epochs: int) -> None:
    documents = documents_of(sizes)
    stream = DocumentStream(documents, np.arange(len(sizes)), (0,), width)
    total = sum(sizes)
    found: list[int] = []
    while len(found) < epochs * total:
        found += stream.take(min(length, epochs * total - len(found))).ids.tolist()
    assert Counter(found) == dict.fromkeys(range(1, total + 1), epochs)
    for epoch in range(epochs):
        assert sorted(found[epoch * total : (epoch + 1) * total]) == list(range(1, total + 1))


def plain_stream(
    sizes: list[int], key: list[int], width: int, lengths: list[int]
) -> list[tuple[list[int], list[str]]]:
    """(tokens, names) of rows over open documents, by the rule as it is written, on lists of tokens."""
    starts = np.cumsum([1, *sizes])
    epoch = -1
    coming: list[int] = []
    lanes: list[tuple[str, list[int]]] = []
    rows = []

    def opened() -> tuple[str, list[int]]:
        number = coming.pop(0)
        return f"d{number}", list(range(starts[number], starts[number + 1]))

    for taken, length in enumerate(lengths):
        rng = np.random.default_rng([*key, taken, 0x1A9E])
        row: list[int] = []
        names: list[str] = []
        lane = None
        while len(row) < length:
            if lane is None:
                if not lanes and not coming:
                    epoch += 1
                    coming = np.random.default_rng([*key, epoch]).permutation(np.arange(len(sizes))).tolist()
                while len(lanes) < width and coming:
                    lanes.append(opened())
                lane = int(rng.integers(len(lanes)))
            name, tokens = lanes.pop(lane)
            names.append(name)
            taking = length - len(row)
            row += tokens[:taking]
            if tokens[taking:]:
                lanes.insert(lane, (name, tokens[taking:]))
            elif len(row) < length and coming:
                lanes.insert(lane, opened())
            else:
                lane = None
        rows.append((row, names))
    return rows


@pytest.mark.parametrize("width", [1, 2, 4, 30])
def test_rows_over_open_documents_are_those_of_the_rule(width: int) -> None:
    rng = np.random.default_rng(7)
    for case, count in enumerate((1, 3, 11)):
        # Lengths that sizes divide by: documents end where rows do.
        sizes = [int(size) for size in rng.choice([0, 4, 8, 12, 13], count)]
        sizes[0] += 4
        lengths = [int(length) for length in rng.choice([4, 8, 9, 24], 40)]
        stream = DocumentStream(documents_of(sizes), np.arange(count), (2, case), width)
        for length, (row, names) in zip(lengths, plain_stream(sizes, [2, case], width, lengths), strict=True):
            sample = stream.take(length)
            assert sample.ids.tolist() == row
            assert list(sample.names) == names


def test_inside_a_row_a_document_runs_on_and_across_rows_too() -> None:
    documents = documents_of([30, 20, 25])
    stream = DocumentStream(documents, np.arange(3), (3,), 2)
    seen = dict.fromkeys(range(3), 0)
    starts = [1, 31, 51]
    for _ in range(9):
        row = stream.take(8)
        for number, name in enumerate(row.names):
            piece, which = row.ids[row.documents == number], int(name[1:])
            assert piece.tolist() == list(
                range(starts[which] + seen[which], starts[which] + seen[which] + len(piece))
            )
            seen[which] += len(piece)


def test_the_rows_of_a_step_come_from_as_many_documents() -> None:
    """Eight rows out of sixteen long documents: one place of the text end to end, many when interleaved."""
    documents = documents_of([500] * 16)
    for width, least, most in ((1, 1, 2), (16, 5, 8)):
        stream = DocumentStream(documents, np.arange(16), (0,), width)
        names = {name for _ in range(8) for name in stream.take(10).names}
        assert least <= len(names) <= most
    assert len(stream.lanes) == 16


def test_a_seed_draws_other_documents() -> None:
    documents = documents_of([50] * 16)

    def first(seed: int) -> list[str]:
        stream = DocumentStream(documents, np.arange(16), (seed,), 8)
        return [stream.take(10).names[0] for _ in range(6)]

    assert first(0) == first(0) != first(1)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, lengths=st.lists(st.integers(1, 60), min_size=4, max_size=12), stop=st.integers(0, 3))
@pytest.mark.parametrize("kind", ["stream", "fit"])
def test_a_stopped_stream_goes_on_as_if_it_had_not(
    kind: str, sizes: list[int], lengths: list[int], stop: int
) -> None:
    documents = documents_of(sizes)

    def fresh() -> Any:
        if kind == "fit":
            return FittedStream(documents, np.arange(len(sizes)), (1,), PAD)
        return DocumentStream(documents, np.arange(len(sizes)), (1,), 4)

    whole = fresh()
    rows = [whole.take(length) for length in lengths]
    stopped = fresh()
    for length in lengths[:stop]:
        stopped.take(length)
    resumed = fresh()
    resumed.restore(stopped.state())
    for length, row in zip(lengths[stop:], rows[stop:]):
        again = resumed.take(length)
        assert np.array_equal(again.ids, row.ids)
        assert np.array_equal(again.weights, row.weights)
        assert again.names == row.names


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, length=st.integers(2, 30))
def test_fitted_rows_cut_only_what_is_longer_than_a_row(sizes: list[int], length: int) -> None:
    documents = documents_of(sizes)
    stream = FittedStream(documents, np.arange(len(sizes)), (0,), PAD)
    starts = np.cumsum([1, *sizes])
    found: list[int] = []
    # The rests of long documents wait at random places: all are read in a few epochs.
    while len(found) < 2 * sum(sizes) or (len(set(found)) < sum(sizes) and len(found) < 50 * sum(sizes)):
        row = stream.take(length)
        text = row.ids != PAD
        assert row.weights.tolist() == text.astype(float).tolist()
        assert row.documents[~text].tolist() == [len(row.names)] * int((~text).sum())
        for number, name in enumerate(row.names):
            piece, which = row.ids[row.documents == number], int(name[1:])
            assert (np.diff(piece) == 1).all()
            assert len(piece) == sizes[which] or sizes[which] > length
            assert starts[which] <= piece[0] < starts[which + 1]
        found += row.ids[text].tolist()
    counts = Counter(found)
    assert set(counts) == set(range(1, sum(sizes) + 1))


def plain_fit(
    sizes: list[int], key: list[int], lengths: list[int], *, whole: bool, waiting_for: int
) -> list[tuple[list[int], list[str]]]:
    """(tokens, names) of fitted rows, by the rule as it is written, on lists of tokens."""
    starts = np.cumsum([1, *sizes])
    queue: list[tuple[str, list[int]]] = []
    coming: list[int] = []
    rows, epoch = [], 0
    for taken, length in enumerate(lengths):
        while len(queue) < min(waiting_for, 2 * len(sizes)):
            if not coming:
                coming = np.random.default_rng([*key, epoch]).permutation(np.arange(len(sizes))).tolist()
                epoch += 1
            number = coming.pop(0)
            if sizes[number]:
                queue.append((f"d{number}", list(range(starts[number], starts[number + 1]))))
        row: list[int] = []
        names: list[str] = []
        fitting = [piece for piece in queue if len(piece[1]) <= length]
        chosen = fitting[0] if whole and fitting else queue[0]
        while True:
            queue.remove(chosen)
            room = length - len(row)
            names.append(chosen[0])
            row += chosen[1][:room]
            if len(chosen[1]) > room:
                place = int(np.random.default_rng([*key, taken, 0x1A9E]).integers(len(queue) + 1))
                queue.insert(place, (chosen[0], chosen[1][room:]))
                break
            fitting = [piece for piece in queue if len(piece[1]) <= length - len(row)]
            if not fitting:
                break
            chosen = max(fitting, key=lambda piece: len(piece[1]))
        rows.append((row, names))
    return rows


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("width", [1, 3, 256])
def test_fitted_rows_are_those_of_the_rule(whole: bool, width: int) -> None:
    rng = np.random.default_rng(5)
    for case, count in enumerate((1, 4, 9)):
        sizes = [int(size) for size in rng.integers(0, 40, count)]
        sizes[0] += 1
        lengths = [int(length) for length in rng.choice([7, 16, 33, 60], 40)]
        stream = FittedStream(documents_of(sizes), np.arange(count), (2, case), PAD, whole, width)
        wanted = plain_fit(sizes, [2, case], lengths, whole=whole, waiting_for=width)
        for length, (row, names) in zip(lengths, wanted, strict=True):
            sample = stream.take(length)
            assert sample.ids.tolist() == row + [PAD] * (length - len(row))
            assert list(sample.names) == names


def test_so_many_documents_wait() -> None:
    stream = FittedStream(documents_of([5] * 300), np.arange(300), (0,), PAD)
    stream.take(5)
    assert len(stream.waiting) == 255


def test_fitted_rows_of_long_documents_come_from_many() -> None:
    documents = documents_of([500] * 16)
    stream = FittedStream(documents, np.arange(16), (0,), PAD)
    assert len({name for _ in range(8) for name in stream.take(50).names}) >= 5


def test_fitted_rows_are_nearly_full() -> None:
    rng = np.random.default_rng(0)
    documents = documents_of(rng.integers(1, 100, 300).tolist())
    stream = FittedStream(documents, np.arange(300), (0,), PAD)
    padding = sum(int((stream.take(128).ids == PAD).sum()) for _ in range(110))
    assert padding / (110 * 128) < 0.02


def test_the_oldest_document_never_waits() -> None:
    """Short documents would fit better for ever: the long one comes in its turn."""
    documents = documents_of([90, *[50] * 40])
    stream = FittedStream(documents, np.arange(41), (0,), PAD)
    rows = [stream.take(100) for _ in range(42)]
    assert sum("d0" in row.names for row in rows) >= 1


@pytest.mark.parametrize("stream", [DocumentStream, lambda *given: FittedStream(*given, PAD)])
def test_text_without_tokens_is_refused(stream: Any) -> None:
    with pytest.raises(UsageError, match="no tokens"):
        stream(documents_of([0, 0]), np.arange(2), (0,)).take(3)


def test_lengths_are_known_once_every_document_was_made() -> None:
    documents = documents_of([3, 4])
    for number in (0, 1):
        assert documents.known_lengths is None
        documents.ids(number)
    known = documents.known_lengths
    assert known is not None
    assert known.tolist() == [3, 4]
