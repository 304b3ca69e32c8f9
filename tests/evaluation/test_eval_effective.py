"""The effective length with all of its evidence, held against the same figures by hand; tokens that repeat far text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plain_statistics as plain
import pytest

from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.verdict.effective import effective_length, far_repeats, length_score, long_tokens

LENGTHS, OWNERS = (32, 64, 128), [0, 0, 1, 2, 3]


def rows_of(seed: int, shift: float = 0.0) -> list[np.ndarray]:
    shared, own = np.random.default_rng(1), np.random.default_rng(seed)
    return [shared.normal(3, 1, 128) + own.normal(shift, 0.02, 128) for _ in OWNERS]


def reading_of(rows: list[np.ndarray]) -> Reading:
    return Reading.prefix(dict.fromkeys(LENGTHS, rows))


def answer(
    length: int, index: int, credit: float, *, task: str = "needle", chance: float = 0.2, depth: float = 0.5
) -> SampleScore:
    return SampleScore(task, length, depth, index, 0, "forced-choice", "full", credit, chance)


def asked(credits: dict[int, list[float]], **about: Any) -> list[SampleScore]:
    return [
        answer(length, index, credit, **about)
        for length, found in credits.items()
        for index, credit in enumerate(found)
    ]


def test_all_of_the_evidence() -> None:
    """Ten questions a length at a chance of a fifth; a task at chance at the short length is left out of all of it."""
    credits = {32: [1.0] * 9 + [0.5], 64: [1.0] * 8 + [0.9, 0.0], 128: [1.0, 0.5] * 5}
    scores = [*asked(credits), *asked({length: [0.2] * 10 for length in LENGTHS}, task="graph")]
    model, near, far = rows_of(2), rows_of(3, 0.1), rows_of(4, 0.3)
    # At 16 nobody was asked: it is no tested length.
    found = effective_length(
        [128, 16, 32, 64],
        scores,
        reading_of(model),
        [reading_of(far), reading_of(near)],
        OWNERS,
        threshold=0.8,
    )
    short = [(credit - 0.2) / 0.8 for credit in credits[32]]
    evidence = []
    for length in LENGTHS:
        start = length - length // 4
        # The better of the two cropped readers is the one to be held against.
        apart = [float((a - b)[start:length].mean()) for a, b in zip(model, near, strict=True)]
        tail = plain.interval(apart, OWNERS)
        here = [max(0.0, (credit - 0.2) / 0.8) for credit in credits[length]]
        share = plain.ratio(here, short, range(10))
        evidence.append({
            "length": length, "retrieval": pytest.approx(sum(credits[length]) / 10),
            "length_score": pytest.approx(share[0]), "length_score_ci": pytest.approx(list(share[1:3]), abs=1e-6),
            "retrieval_holds": share[0] >= 0.8, "tail_minus_cropped": pytest.approx(tail[0]),
            "tail_minus_cropped_ci": pytest.approx(list(tail[1:3]), abs=1e-6), "text_holds": True,
        })  # fmt: skip
    fallen = evidence[2]
    assert [row["retrieval_holds"] for row in evidence] == [True, True, False]
    assert found["evidence"] == evidence
    low, high = plain.ratio([max(0.0, (c - 0.2) / 0.8) for c in credits[128]], short, range(10))[1:3]
    assert {name: value for name, value in found.items() if name != "evidence"} == {
        "length": 64, "threshold": 0.8, "short_score": pytest.approx(0.95), "short_length": 32,
        "left_out": ["graph"],
        "why": f"at 128 retrieval falls to {sum(max(0.0, c - 0.2) for c in credits[128]) / 0.8 / sum(short):.2f} "
        f"[{low:.2f} .. {high:.2f}] of the short score",
    }  # fmt: skip
    assert fallen["length"] == 128


def test_what_falls_first_is_said() -> None:
    full = asked({32: [1.0] * 10, 64: [1.0] * 10, 128: [0.0] * 10})
    worse = rows_of(2)
    for row in worse:
        row[96:] += 0.5
    both = effective_length(LENGTHS, full, reading_of(worse), [reading_of(rows_of(2))], OWNERS)
    assert (both["length"], both["why"]) == (
        64,
        "at 128 retrieval falls to 0.00 [0.00 .. 0.00] of the short score and the tail reads 0.500 nats worse than "
        "cropped context",
    )
    # Two texts give a share and no interval.
    few = asked({32: [1.0, 1.0], 64: [0.5, 0.5]}, chance=0.0)
    none = effective_length(LENGTHS, few, reading_of(worse), [reading_of(rows_of(2))], OWNERS)
    assert none["why"] == "at 64 retrieval falls to 0.50 of the short score"
    assert none["evidence"][1]["length_score_ci"] is None
    every = effective_length([32, 64], full, reading_of(worse), [reading_of(rows_of(2))], OWNERS)
    assert (every["length"], every["why"]) == (64, "both hold at every tested length, up to 64")
    assert every["threshold"] == 0.85


def test_both_bounds_themselves_hold() -> None:
    """17 of 20 is a share of exactly 0.85, and a tail that is worse by exactly 0.01 is no worse."""
    scores = asked({32: [1.0] * 20, 64: [1.0] * 17 + [0.0] * 3}, chance=0.0)
    zeros, hundredth = ([np.full(128, value) for _ in range(4)] for value in (0.0, 0.01))
    found = effective_length([32, 64], scores, reading_of(hundredth), [reading_of(zeros)])
    assert [(row["retrieval_holds"], row["text_holds"]) for row in found["evidence"]] == [(True, True)] * 2
    assert found["length"] == 64
    more = [np.full(128, 0.0101) for _ in range(4)]
    assert effective_length([32, 64], scores, reading_of(more), [reading_of(zeros)])["length"] is None


def test_nothing_above_chance_leaves_nothing_to_hold_on_to() -> None:
    scores = [
        *asked({32: [0.2] * 8, 64: [1.0] * 8}),
        *asked({32: [0.5] * 8, 64: [0.5] * 8}, task="b", chance=0.5),
    ]
    found = effective_length([32, 64], scores, reading_of(rows_of(2)), [reading_of(rows_of(2))], OWNERS)
    assert (found["length"], found["left_out"], found["short_score"]) == (None, ["needle", "b"], 0.35)
    assert found["why"] == (
        "retrieval at 32 (0.35) is not above chance (0.35): there is nothing to hold on to at longer lengths"
    )
    assert [row["retrieval"] for row in found["evidence"]] == [0.35, 0.75]


def test_the_length_score_is_a_ratio_above_chance_over_the_questions_of_both_lengths() -> None:
    scores = [
        *asked({32: [1.0, 1.0, 0.6, 1.0], 128: [1.0, 0.0, 0.6, 1.0]}),
        # Asked at one of the two lengths alone: not counted.
        answer(32, 9, 1.0), answer(128, 8, 1.0), answer(32, 0, 0.4, depth=0.0), answer(128, 0, 0.4, depth=1.0),
    ]  # fmt: skip
    found = length_score(scores, 128, 32)
    assert found is not None
    share = plain.ratio([1.0, 0.0, 0.5, 1.0], [1.0, 1.0, 0.5, 1.0], range(4))
    assert (found.mean, found.units) == (pytest.approx(share[0]), 4)
    assert found.pair == pytest.approx(share[1:3], abs=1e-6)
    # Texts of two tasks with one number are two texts; depths of one text are one.
    two = [
        *asked({32: [1.0] * 3, 64: [1.0, 0.5, 0.0]}, chance=0.0),
        *asked({32: [1.0] * 3, 64: [0.0, 1.0, 1.0]}, chance=0.0, task="kv"),
        *asked({32: [1.0] * 3, 64: [1.0, 1.0, 1.0]}, chance=0.0, depth=1.0),
    ]
    found = length_score(two, 64, 32)
    assert found is not None
    assert (found.units, found.mean) == (6, pytest.approx(6.5 / 9))
    assert found.pair == pytest.approx(
        plain.ratio([2.0, 1.5, 1.0, 0.0, 1.0, 1.0], [2.0] * 3 + [1.0] * 3, range(6))[1:3], abs=1e-6
    )


def test_questions_of_other_chances_count_by_what_is_above_their_own() -> None:
    """Credits of 1 and 0.6 at chances of a fifth and a half: 1 and 0.2 above chance, whatever stands beside them."""
    scores = [
        *asked({32: [1.0, 1.0], 64: [1.0, 0.6]}),
        *asked({32: [1.0, 0.75], 64: [0.6, 0.5]}, task="kv", chance=0.5),
    ]
    found = length_score(scores, 64, 32)
    assert found is not None
    over, under = [1.0, 0.5, 0.2, 0.0], [1.0, 1.0, 1.0, 0.5]
    share = plain.ratio(over, under, range(4))
    assert (found.mean, found.units) == (pytest.approx(share[0]), 4)
    assert found.pair == pytest.approx(share[1:3], abs=1e-6)


def test_no_length_score_without_anything_above_chance_at_the_short_length() -> None:
    for near in ([0.2] * 3, [0.0] * 3):
        assert length_score(asked({32: near, 64: [1.0] * 3}), 64, 32) is None
    assert length_score(asked({32: [1.0] * 3}), 64, 32) is None
    # However little it is.
    little = length_score(asked({32: [0.3, 0.2, 0.2], 64: [0.3, 0.2, 0.2]}), 64, 32)
    assert little is not None
    assert little.mean == pytest.approx(1.0)
    assert length_score(asked({32: [0.5] * 3, 64: [0.5] * 3}, chance=0.0), 64, 32) is not None


@pytest.mark.parametrize("window", [1, 5, 12, 13])
def test_far_repeats_by_looking_at_every_pair(window: int) -> None:
    ids = np.random.default_rng(4).integers(0, 2, 90)
    wanted = np.zeros(90, dtype=bool)
    for end in range(3, 90):
        gram = ids[end - 3 : end + 1].tolist()
        before = [at for at in range(3, end) if ids[at - 3 : at + 1].tolist() == gram]
        wanted[end] = bool(before) and end - max(before) > window
    assert 0 < wanted.sum() < 87
    assert far_repeats(ids, window).tolist() == wanted.tolist()


def test_long_tokens_of_every_length() -> None:
    """Of texts of 60 and 128 tokens: what is marked, and which tokens gain or lose more than two nats."""
    rng = np.random.default_rng(6)
    ids = [rng.integers(0, 3, 128) for _ in range(3)]
    full = [np.round(rng.normal(2, 2, 128)) for _ in ids]
    near = [row + rng.choice([-3.0, -2.0, 0.0, 2.0, 3.0, 4.0], 128) for row in full]
    lengths = {128: 128, 16: 16, 17: 17, 60: 60}
    losses, cropped = (Reading(dict.fromkeys(lengths, rows), lengths) for rows in (full, near))
    found = long_tokens(ids, losses, cropped, list(lengths), 16)
    # A length of the window itself has nothing past it.
    assert [row["length"] for row in found] == [17, 60, 128]
    for row in found:
        places = [(text, at) for text in range(3) for at in range(16, row["length"])]
        marked = [(text, at) for text, at in places if far_repeats(ids[text], 16)[at]]
        gains = [near[text][at] - full[text][at] for text, at in places]
        assert row["tokens"] == len(marked)
        assert row["helped"] == pytest.approx(sum(gain > 2 for gain in gains) / len(gains))
        assert row["hurt"] == pytest.approx(sum(gain < -2 for gain in gains) / len(gains))
        if marked:
            loss = sum(full[text][at] for text, at in marked) / len(marked)
            assert row["loss"] == pytest.approx(loss)
            assert row["perplexity"] == pytest.approx(math.exp(loss))
            cropped_loss = sum(near[text][at] for text, at in marked) / len(marked)
            assert row["cropped_loss"] == pytest.approx(cropped_loss)
        else:
            assert (row["loss"], row["perplexity"], row["cropped_loss"]) == (None, None, None)
    assert found[0]["tokens"] == 0 < found[2]["tokens"]
