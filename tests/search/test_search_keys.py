"""Key tokens of a search: far matches against the definition written out, and losses from near text alone."""

from __future__ import annotations

import numpy as np
import pytest
from search_models import WINDOW, make_model

from ropewalk.search.job import Rung, make_rungs
from ropewalk.search.keys import find_keys, key_tokens, near_losses, told_far
from ropewalk.search.objective import Objective, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Material, Row, Rows

LEAST, LONGEST = 3, 32


def match(ids: list[int], place: int, other: int) -> int:
    """How many tokens before two places are the same."""
    length = 0
    while length < min(other, LONGEST) and ids[other - 1 - length] == ids[place - 1 - length]:
        length += 1
    return length


def plainly_told(ids: list[int], window: int) -> list[bool]:
    """The definition, one place after the other."""
    told = []
    for place in range(len(ids)):
        far = [(match(ids, place, at), ids[at]) for at in range(place) if place - at > window]
        near = max([match(ids, place, at) for at in range(place) if place - at <= window], default=0)
        longest = max([length for length, _ in far], default=0)
        told.append(
            longest >= LEAST
            and longest > near
            and any(length == longest and token == ids[place] for length, token in far)
        )
    return told


@pytest.mark.parametrize(("letters", "window", "seed"), [(2, 20, 0), (3, 40, 1), (4, 16, 2), (30, 50, 3)])
def test_what_far_text_tells_is_the_definition(letters: int, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, letters, 300)
    # Long repetitions, one longer than the longest that is told apart, and one that goes on otherwise.
    ids[150:200] = ids[20:70]
    ids[230:240] = ids[100:110]
    ids[240] = (ids[110] + 1) % letters
    found = told_far(ids, window)
    assert found.tolist() == plainly_told(ids.tolist(), window)
    assert found[window + 1 :].any()
    assert not found[: window + 1].any()
    assert not found.all()


def test_a_near_match_as_long_takes_the_place_of_a_far_one() -> None:
    word, filler = [1, 2, 3, 4], list(range(10, 30))
    far = [*word, 5, *filler, *word, 5]
    assert told_far(np.array(far), 20).tolist() == [False] * 28 + [True, True]
    # The same words nearby, whatever they go on with.
    near = [*word, 5, *filler, *word, 6, 7, *word, 5]
    assert not told_far(np.array(near), 20)[-1]
    assert not told_far(np.array([*word, 5, *filler, *word, 6]), 20)[-1]


def test_far_is_more_than_a_window_back() -> None:
    ids = np.array([1, 2, 3, 4, *range(10, 26), 1, 2, 3, 4])
    # Each of the last four tokens stands twenty places after its like.
    assert np.flatnonzero(told_far(ids, 19)).tolist() == [23]
    assert not told_far(ids, 20).any()
    # A nearer match twenty places back, as long as the far one.
    twice = np.array([*ids[:4], 7, *range(30, 40), *ids, 7])
    assert np.flatnonzero(told_far(twice, 19)[-1:]).tolist() == [0]
    assert not told_far(twice, 20)[-1]


def test_rungs_hold_the_key_tokens_of_fit_and_validation() -> None:
    ids = np.tile(np.arange(8), 20)
    texts = [np.where(np.arange(160) % 37 == shift, 99, ids) for shift in range(3)]
    rows = Rows([Row(text) for text in texts[:2]], [Row(ids, "kv", 0.1, (159,))])
    others = Rows([Row(texts[2])], [Row(ids, "kv", 0.1, (159,))])
    material = Material({160: rows}, {160: others}, {160: [Row(ids, "kv", 0.9, (158,))]}, "text", ([], []))
    with Reader(make_model()) as reader:
        [rung] = make_rungs(reader, material, [2.5], Objective(), None)
        expected = find_keys(reader, [Row(text) for text in texts])
        assert all(keys.any() for keys in expected)
        for item, keys in zip([*rung.text, rung.validation[0]], expected, strict=True):
            assert np.array_equal(item.keys, keys)
        assert [item.keys for item in (*rung.planted, rung.validation[1])] == [None, None]
        assert [item.row.answer for item in rung.further] == [(158,)]
        assert rung.further[0].weights[158] == 0.5
        [without] = make_rungs(reader, material, [2.5], Objective(keys=0.0), None)
        assert {item.keys for item in (*without.text, *without.validation)} == {None}


def test_a_sweep_without_questions_reads_as_many_rows_of_text() -> None:
    texts = weigh([Row(np.full(80, number)) for number in range(20)], WINDOW, Objective())
    questions = weigh(
        [Row(np.full(80, number), "kv", 0.1, (79,)) for number in range(50, 60)], WINDOW, Objective()
    )
    rung = Rung(2.0, 80, texts, questions, [], {}, [])
    assert [int(item.row.ids[0]) for item in rung.sweep_rows()] == [0, 50, 1, 51, 2, 52, 3, 53, 4, 54, 5, 55]
    alone = Rung(2.0, 80, texts, [], [], {}, [])
    assert [int(item.row.ids[0]) for item in alone.sweep_rows()] == list(range(12))


def test_a_key_token_is_told_far_and_not_guessed_near() -> None:
    ids = np.array([1, 2, 3, 4, 5, *range(10, 30), 1, 2, 3, 4, 5])
    near = np.full(30, 0.5)
    near[28] = 1.0
    assert np.flatnonzero(key_tokens(Row(ids), near, 20)).tolist() == [28]
    near[29] = 3.0
    assert np.flatnonzero(key_tokens(Row(ids), near, 20)).tolist() == [28, 29]


def test_rows_inside_the_window_hold_no_key_token() -> None:
    ids = np.tile(np.arange(8), 20)
    ids[:8] = [3, 1, 4, 1, 5, 9, 2, 6]
    ids[-8:] = ids[:8]
    with Reader(make_model()) as reader:
        before = reader.tokens
        long, short = find_keys(reader, [Row(ids), Row(ids[:WINDOW])])
        expected = told_far(ids, WINDOW) & (near_losses(reader, Row(ids), WINDOW) >= 1.0)
        assert np.array_equal(long, expected.astype(float))
        assert long.any()
        assert short.tolist() == [0.0] * WINDOW
        # The long row in its pieces, twice; the short one not at all.
        assert reader.tokens - before == 2 * 4 * WINDOW


def test_near_losses_never_see_more_than_a_window() -> None:
    ids = np.random.default_rng(3).integers(0, 256, 150)
    with Reader(make_model()) as reader:
        found = near_losses(reader, Row(ids), WINDOW)
        # Each token again, from the piece it was read in: pieces begin at every half window, the last ends the row.
        for token in (1, 40, 63, 70, 100, 149):
            start = 0 if token < 64 else 32 if token < 96 else 64 if token < 128 else 150 - WINDOW
            losses, _ = reader.read(None, [ids[start : start + WINDOW]])
            assert found[token] == pytest.approx(losses[0][token - start], abs=1e-5)
