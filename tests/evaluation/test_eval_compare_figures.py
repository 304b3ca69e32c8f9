"""Every figure of a comparison, held against the same figure by hand from the losses and answers that were put in."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain_statistics as plain
import pytest
from compared import TARGET, WINDOW, judged

from ropewalk.evaluation.loss.controls import Crop
from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.result import CompareResult
from ropewalk.evaluation.retrieval.scores import SampleScore

# Six segments of four documents: an interval has three degrees of freedom.
OWNERS = [0, 0, 1, 2, 2, 3]
TAIL, LENGTHS = TARGET // 4, (WINDOW, 2 * WINDOW, TARGET)
Rows = list[np.ndarray]


def losses_of(seed: int, *, inside: float = 2.0, far: float = 2.0, spread: float = 0.05) -> Rows:
    """Losses that differ from token to token; segments share most of their difficulty."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    rows = []
    for _ in OWNERS:
        row = np.full(TARGET, inside) + shared.normal(0, 0.3, TARGET) + shared.normal() + 3.0
        row[WINDOW:] += far - inside
        row += own.normal() * spread + own.normal(0, spread, TARGET)
        row[0] = np.nan
        rows.append(row.astype(np.float32))
    return rows


def reading_of(rows: Rows) -> Reading:
    return Reading.prefix(dict.fromkeys(LENGTHS, rows))


def answers(
    task: str, far: Sequence[float], near: Sequence[float], *, chance: float = 0.0
) -> list[SampleScore]:
    """Three depths of four texts at the target and inside the window; `far` and `near` are the credits in turn."""
    return [
        SampleScore(task, length, depth, index, 0, "teacher-forced", "full", float(credit), chance, -1.0)
        for length, credits in ((TARGET, far), (WINDOW, near))
        for (index, depth), credit in zip(
            ((index, depth) for index in range(4) for depth in (1.0, 0.0, 0.5)), credits, strict=True
        )
    ]


def mean(rows: Rows, start: int, stop: int) -> list[float]:
    return [float(row[start:stop].astype(np.float64).mean()) for row in rows]


READ = {
    "unmodified": losses_of(1, far=4.0),
    "cropped": losses_of(2, far=2.4),
    "cropped, as is": losses_of(3, far=2.3, spread=0.12),
    "one": losses_of(4, far=2.0, inside=2.3),
    "two": losses_of(5, far=2.0, inside=2.1),
    "three": losses_of(6, far=2.6, inside=2.3),
}
FAR = {
    "unmodified": [0] * 12,
    "cropped": [1, 0, 0] * 4,
    "cropped, as is": [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0],
    "one": [1, 1, 1, 1, 1, 1, 1, 1, 0.5, 1, 1, 0],
    "two": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, 1],
    "three": [1, 0, 0, 0.5, 0, 0, 1, 0, 1, 0, 0, 0],
}
NEAR = {name: [1.0] * 10 + [0.5, 1.0] for name in FAR} | {"three": [1.0, 0.5] * 6}
CONTROLS = ("unmodified", "cropped", "cropped, as is")
METHODS = ("one", "two", "three")


def found_of(chance: float = 0.1) -> dict[str, tuple[Reading | None, list[SampleScore]]]:
    return {
        name: (
            reading_of(READ[name]),
            [
                *answers("needle", FAR[name], NEAR[name], chance=chance),
                # Nobody can do this one, whatever `three` finds of it by chance: it does not enter.
                *answers("graph", [float(name == "three")] * 12, [0.0] * 12, chance=0.25),
            ],
        )
        for name in READ
    }


@pytest.fixture(scope="module")
def result() -> CompareResult:
    contexts = {c: [row + np.float32(8 / c) for row in READ["cropped"]] for c in (WINDOW // 4, WINDOW // 2)}
    return judged(
        found_of(),
        controls=CONTROLS,
        documents=OWNERS,
        contexts=contexts,
        plan=SimpleNamespace(samples=48),
        crop=Crop(WINDOW, 1),
        seconds={"unmodified": 1.23456, "one": 2.34567},
        key_gain=0.25,
        key_floor=-9.0,
        seed=7,
        tasks=["ppl", "needle", "graph"],
    )


def test_what_was_asked_stands_in_the_result(result: CompareResult) -> None:
    said = result.model_dump(include={
        "model", "original_length", "target_length", "factor", "lengths", "tasks", "questions", "chance", "seed",
        "crop_length", "crop_stride", "contexts", "cropped_is", "remarks", "complete", "seconds", "run",
    })  # fmt: skip
    assert said == {
        "model": "made", "original_length": 64, "target_length": 256, "factor": 4.0, "lengths": [64, 128, 256],
        "tasks": ["needle", "graph"], "questions": 48, "chance": 0.25, "seed": 7, "crop_length": 64,
        "crop_stride": 1, "contexts": "exactly the last 63 tokens", "cropped_is": "cropped, as is",
        "remarks": ["a remark"], "complete": True, "seconds": 1.0, "run": "run",
    }  # fmt: skip
    assert [(item.name, item.why) for item in result.not_measured] == [
        ("drope", "needs training"),
        ("vt", "too long"),
    ]
    assert result.request.hashes == {"text": "abc"}
    assert result.text is not None
    assert result.text.seconds == 1.235
    assert [result.row(name).seconds for name in ("one", "two")] == [2.35, 0.0]
    assert list(result.controls) == list(CONTROLS)


@pytest.mark.parametrize("name", READ)
def test_losses_of_every_row(result: CompareResult, name: str) -> None:
    row, rows = result.row(name), READ[name]
    tails = mean(rows, TARGET - TAIL, TARGET)
    assert row.loss_at_target == pytest.approx(sum(tails) / 6)
    assert row.loss_in_window == pytest.approx(sum(mean(rows, 1, WINDOW)) / 6)
    for line, length in zip(row.loss, LENGTHS, strict=True):
        whole = plain.interval(mean(rows, 1, length), OWNERS)
        tail = plain.interval(mean(rows, length - length // 4, length), OWNERS)
        assert (line.length, line.units) == (length, 4)
        assert (line.loss, line.tail_loss) == (pytest.approx(whole[0]), pytest.approx(tail[0]))
        assert line.perplexity == pytest.approx(float(np.exp(whole[0])))
        assert line.ci == pytest.approx(whole[1:3], abs=1e-5)
        assert line.tail_ci == pytest.approx(tail[1:3], abs=1e-5)
    # 255 losses in 64 equal parts: 63 of four tokens and a last one of three.
    every = np.mean([row[1:].astype(np.float64) for row in rows], axis=0)
    parts = [every[at : at + 4] for at in range(0, 252, 4)] + [every[252:]]
    assert row.curve == pytest.approx([float(part.mean()) for part in parts], abs=6e-6)


def gaps_of(name: str) -> dict[str, plain.Said]:
    """The four paired differences of a row, the families not yet considered."""
    rows = READ[name]

    def apart(other: str, start: int, stop: int) -> plain.Said:
        pairs = zip(mean(rows, start, stop), mean(READ[other], start, stop), strict=True)
        return plain.interval([a - b for a, b in pairs], OWNERS)

    credits = [a - b for a, b in zip(FAR[name], FAR["cropped, as is"], strict=True)]
    return {
        "loss_vs_cropped": apart("cropped, as is", TARGET - TAIL, TARGET),
        "loss_vs_unmodified": apart("unmodified", TARGET - TAIL, TARGET),
        "window_cost": apart("unmodified", 1, WINDOW),
        "retrieval_vs_cropped": plain.credits_interval(
            credits, [index for index in range(4) for _ in range(3)]
        ),
    }


def test_differences_to_the_controls_with_their_families(result: CompareResult) -> None:
    """Text and questions against cropping are one family of six tests, the two others of three each."""
    gaps = {name: gaps_of(name) for name in METHODS}
    families = [("loss_vs_cropped", "retrieval_vs_cropped"), ("loss_vs_unmodified",), ("window_cost",)]
    adjusted: dict[Any, float] = {}
    for family in families:
        adjusted |= plain.holm(
            {(name, what): gaps[name][what][3] or 0.0 for what in family for name in METHODS}
        )
    for name in METHODS:
        for what, (difference, low, high, p) in gaps[name].items():
            said = getattr(result.row(name), what)
            assert said.difference == pytest.approx(difference, abs=1e-9), (name, what)
            assert [said.low, said.high] == pytest.approx([low, high], abs=1e-5), (name, what)
            assert said.p == pytest.approx(p, rel=1e-4, abs=1e-8), (name, what)
            assert said.p_family == pytest.approx(adjusted[name, what], rel=1e-4, abs=1e-8), (name, what)
    assert all(getattr(result.row("cropped"), what) is None for what in gaps["one"])
    assert result.verdict.text_beats_cropping == ["two", "one"]
    assert result.verdict.retrieval_beats_cropping == ["two", "one"]
    assert result.verdict.beats_cropping


def test_answers_of_every_row(result: CompareResult) -> None:
    assert [(item.name, item.why) for item in result.verdict.not_counted] == [
        ("graph", "the unmodified model does not do it inside its own window")
    ]
    for name in READ:
        row = result.row(name)
        assert row.retrieval_at_target == pytest.approx(sum(FAR[name]) / 12)
        assert row.retrieval_in_window == pytest.approx(sum(NEAR[name]) / 12)
        assert row.retrieval_by_task == {
            "needle": {
                "at_target": pytest.approx(sum(FAR[name]) / 12),
                "in_window": pytest.approx(sum(NEAR[name]) / 12),
                "chance": 0.1,
            },
            "graph": {"at_target": float(name == "three"), "in_window": 0.0, "chance": 0.25},
        }
        assert [(line["task"], line["length"], line["depth"], line["samples"]) for line in row.retrieval] == [
            (task, length, depth, 4)
            for task in ("needle", "graph")
            for length in (64, 256)
            for depth in (0, 0.5, 1)
        ]
        above = [[(credit - 0.1) / 0.9 for credit in credits[name]] for credits in (FAR, NEAR)]
        texts = [index for index in range(4) for _ in range(3)]
        share, low, high, _ = plain.ratio([max(0.0, one) for one in above[0]], above[1], texts)
        assert row.length_score == pytest.approx(share)
        assert row.length_score_ci == pytest.approx([low, high], abs=1e-5)


def key_masks(far: Rows, near: Rows, gain: float, floor: float) -> list[np.ndarray]:
    return [
        np.array([
            place >= WINDOW and near_row[place] - far_row[place] >= gain and -far_row[place] >= floor
            for place in range(TARGET)
        ])
        for far_row, near_row in zip(far, near, strict=True)
    ]  # fmt: skip


def test_key_tokens_by_the_mean_of_the_rows_that_read_best(result: CompareResult) -> None:
    far = [np.mean(pair, axis=0) for pair in zip(READ["one"], READ["two"], strict=True)]
    near = READ["cropped, as is"]
    masks, mirror = key_masks(far, near, 0.25, -9.0), key_masks(near, far, 0.25, -9.0)
    helped, hurt = ([int(mask.sum()) for mask in found] for found in (masks, mirror))
    excess = plain.interval([a - b for a, b in zip(helped, hurt, strict=True)], OWNERS)
    assert result.key_tokens == {
        "reference": "the mean of one, two", "short": "cropped, as is", "length": 256, "beyond": 64, "gain": 0.25,
        "floor": -9.0, "tokens": sum(helped), "share": sum(helped) / (6 * 192), "reverse": sum(hurt),
        "excess": pytest.approx(excess[0]), "excess_ci": pytest.approx(excess[1:3], abs=1e-4), "told": True,
        "why_not": "",
    }  # fmt: skip
    assert sum(helped) > 100
    assert sum(hurt) > 0
    losses = {}
    for name, rows in READ.items():
        kept = np.concatenate([row[mask] for row, mask in zip(rows, masks, strict=True)]).astype(np.float64)
        losses[name] = float(kept.mean())
        assert result.row(name).key_token_loss == pytest.approx(losses[name])
    order = sorted(METHODS, key=losses.__getitem__)
    assert [result.row(name).rank_key for name in order] == [1, 2, 3]
    assert result.verdict.key_tokens == order[0]


def test_places_by_every_measure_and_the_group(result: CompareResult) -> None:
    tails = {name: sum(mean(READ[name], TARGET - TAIL, TARGET)) for name in METHODS}
    by_text = sorted(METHODS, key=tails.__getitem__)
    assert [result.row(name).rank_text for name in by_text] == [1, 2, 3]
    assert [result.row(name).rank_retrieval for name in ("two", "one", "three")] == [1, 2, 3]
    # The two cannot be told apart; inside the window `two` is the cheaper.
    assert [(row.name, row.rank, row.group) for row in result.methods] == [
        ("two", 1, True),
        ("one", 2, True),
        ("three", 3, False),
    ]
    said = result.verdict
    assert (said.rank_by, said.criteria) == ("use", ["retrieval", "key-tokens"])
    assert (said.recommended, said.group) == ("two", ["two", "one"])
    assert (said.text, said.retrieval) == (by_text[0], "two")


def test_what_training_could_bring(result: CompareResult) -> None:
    """By the first cropped control, at 16, 32 and 64 tokens of context, carried on over two doublings."""
    start = TARGET - TAIL
    whole = mean(READ["cropped"], start, TARGET)
    half, quarter = ([loss + 8 / context for loss in whole] for context in (32, 16))
    said = result.verdict.fine_tuning
    assert said is not None
    assert (said.contexts, said.tokens, said.doublings) == ([16, 32, 64], 6 * 64, 2.0)
    assert said.losses == pytest.approx([sum(losses) / 6 for losses in (quarter, half, whole)], abs=1e-6)
    assert said.slope == pytest.approx(0.25, abs=1e-6)
    assert said.expected_loss == pytest.approx(sum(whole) / 6 - 2 * 0.25, abs=1e-6)
    best = min(METHODS, key=lambda name: sum(mean(READ[name], start, TARGET)))
    gain = sum(mean(READ[best], start, TARGET)) / 6 - said.expected_loss
    assert said.loss_gain == pytest.approx(gain, abs=1e-6)
    assert gain > 0.05
    # Inside its window the unmodified model finds 11.5 of 12, the best row 11.5 at the target.
    assert said.retrieval_gain == pytest.approx(0.0)


def without(found: dict[str, Any], what: str) -> dict[str, Any]:
    """The same comparison without its text, or without its questions."""
    return {
        name: (None if what == "text" else reading, [] if what == "questions" else scores)
        for name, (reading, scores) in found.items()
    }


def test_questions_alone_and_text_alone() -> None:
    asked = judged(without(found_of(), "text"), controls=CONTROLS, documents=[], reads_text=False)
    for name in READ:
        row = asked.row(name)
        assert (row.loss, row.curve, row.loss_at_target, row.loss_in_window, row.key_token_loss) == (
            [], [], None, None, None,
        )  # fmt: skip
        assert row.retrieval_at_target == pytest.approx(sum(FAR[name]) / 12)
        assert (row.loss_vs_cropped, row.loss_vs_unmodified, row.window_cost) == (None, None, None)
    # Without losses the first of the cropped controls is the one to beat.
    assert (asked.cropped_is, asked.key_tokens, asked.verdict.fine_tuning) == ("cropped", None, None)
    assert (asked.verdict.text, asked.verdict.key_tokens, asked.verdict.criteria) == (
        None,
        None,
        ["retrieval"],
    )
    assert asked.row("one").retrieval_vs_cropped is not None
    assert [asked.row(name).rank_text for name in METHODS] == [None] * 3
    read = judged(
        without(found_of(), "questions"), controls=CONTROLS, documents=OWNERS, key_gain=0.25, key_floor=-9
    )
    for name in READ:
        row = read.row(name)
        assert (row.retrieval, row.retrieval_by_task, row.retrieval_at_target, row.retrieval_in_window) == (
            [], {}, None, None,
        )  # fmt: skip
        assert (row.length_score, row.length_score_ci, row.retrieval_vs_cropped) == (None, None, None)
    assert (read.questions, read.chance, read.text) == (0, None, read.text)
    assert (read.verdict.retrieval, read.verdict.not_counted) == (None, [])
    assert read.verdict.criteria == ["key-tokens"]


def test_without_shorter_contexts_nothing_is_said_of_training() -> None:
    assert judged(found_of(), documents=OWNERS, controls=CONTROLS).verdict.fine_tuning is None
    contexts = dict.fromkeys((16, 32), READ["cropped"])
    kept = judged(found_of(), documents=OWNERS, controls=CONTROLS, contexts=contexts, kept=("unmodified",))
    assert kept.verdict.fine_tuning is not None
    # What an earlier call has read took this one no time.
    assert kept.text is None


@pytest.mark.parametrize(("far", "gain"), [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_what_training_could_bring_to_answers(far: float, gain: float) -> None:
    """The window's share less the best row's at the target; a row that finds more leaves nothing to gain."""
    found = found_of()
    near = [1.0] * 12 if far < 1 else [1.0] * 9 + [0.0] * 3
    for name in READ:
        found[name] = (found[name][0], answers("needle", [far * (name in METHODS)] * 12, near))
    contexts = dict.fromkeys((16, 32), READ["cropped"])
    said = judged(found, documents=OWNERS, controls=CONTROLS, contexts=contexts).verdict
    assert said.fine_tuning is not None
    assert said.fine_tuning.retrieval_gain == gain
    # The best of rows that find nothing has found nothing.
    assert (said.retrieval is None) == (far == 0)
    bare = judged(without(found_of(), "questions"), documents=OWNERS, controls=CONTROLS, contexts=contexts)
    assert bare.verdict.fine_tuning is not None
    assert bare.verdict.fine_tuning.retrieval_gain is None


def test_a_target_inside_the_window_has_no_far_context() -> None:
    """40 of 64 tokens: no key tokens, no length score; the whole row is the window, the curve a point a token."""
    found: dict[str, Any] = {
        name: (Reading.prefix({40: rows}), answers("needle", FAR[name], NEAR[name]))
        for name, rows in READ.items()
    }
    result = judged(found, controls=CONTROLS, documents=OWNERS, target=40, lengths=[40])
    assert (result.key_tokens, result.factor) == (None, 0.625)
    for name, rows in READ.items():
        row = result.row(name)
        assert row.length_score is None
        assert row.loss_in_window == pytest.approx(sum(mean(rows, 1, 40)) / 6)
        assert row.loss_at_target == pytest.approx(sum(mean(rows, 30, 40)) / 6)
        every = np.mean([row[1:40].astype(np.float64) for row in rows], axis=0)
        assert row.curve == pytest.approx(every.tolist(), abs=6e-6)
    same = judged(
        {name: (Reading.prefix({WINDOW: rows}), []) for name, rows in READ.items()},
        controls=CONTROLS, documents=OWNERS, target=WINDOW, lengths=[WINDOW],
    )  # fmt: skip
    assert (same.key_tokens, same.factor, same.row("one").length_score) == (None, 1.0, None)


def test_another_model_chooses_the_key_tokens_once_it_has_read() -> None:
    far, near = losses_of(20, far=1.5), losses_of(21, far=2.5)

    def made(readings: tuple[Reading, Reading] | None) -> CompareResult:
        given: dict[str, Any] = {"readings": readings, "key_gain": 0.9, "key_floor": -9.0}
        return judged(found_of(), controls=CONTROLS, documents=OWNERS, reference="big", **given)

    chosen = made((reading_of(far), reading_of(near)))
    masks = key_masks(far, near, 0.9, -9.0)
    assert chosen.key_tokens is not None
    assert chosen.key_tokens["tokens"] == sum(int(mask.sum()) for mask in masks) > 100
    assert (chosen.key_tokens["reference"], chosen.key_tokens["short"]) == ("big", "its cropped context")
    kept = np.concatenate([row[mask] for row, mask in zip(READ["one"], masks, strict=True)])
    assert chosen.row("one").key_token_loss == pytest.approx(float(kept.astype(np.float64).mean()))
    interrupted = made(None)
    assert (interrupted.key_tokens, interrupted.row("one").key_token_loss) == (None, None)


def test_key_tokens_of_documents_are_tested_by_document_and_of_one_by_segment() -> None:
    """`late` is behind `early` in four of six segments: sure of six segments, not of the four documents they are of."""
    shifts = [0.2, 0.2, -0.01, 0.2, 0.2, -0.01]
    early = READ["one"]
    late = [row + np.float32(shift) for row, shift in zip(early, shifts, strict=True)]
    found: dict[str, Any] = {name: (reading_of(READ[name]), []) for name in CONTROLS}
    found |= {"early": (reading_of(early), []), "late": (reading_of(late), [])}
    for owners, sure in ((OWNERS, False), ([0] * 6, True)):
        result = judged(
            found, controls=CONTROLS, documents=owners, rank="key-tokens", key_gain=0.25, key_floor=-9.0
        )
        means = [np.mean(pair, axis=0) for pair in zip(early, late, strict=True)]
        assert result.key_tokens is not None
        reference = early if result.key_tokens["reference"] == "early" else means
        masks = key_masks(reference, READ["cropped, as is"], 0.25, -9.0)
        units = range(6) if sure else owners
        tokens = [unit for unit, mask in zip(units, masks, strict=True) for _ in range(int(mask.sum()))]
        apart = np.concatenate([(b - a)[mask] for a, b, mask in zip(early, late, masks, strict=True)])
        p = plain.interval(apart.astype(np.float64).tolist(), tokens)[3]
        assert p is not None
        assert (p <= 0.05) is sure
        assert result.verdict.group == (["early"] if sure else ["early", "late"])


def test_key_tokens_that_say_nothing_name_no_best_row() -> None:
    few = judged(found_of(), controls=CONTROLS, documents=OWNERS, key_gain=0.7, key_floor=-9.0)
    assert few.key_tokens is not None
    assert 0 < few.key_tokens["tokens"] < 50
    assert not few.key_tokens["told"]
    assert sorted(few.row(name).rank_key or 0 for name in METHODS) == [1, 2, 3]
    assert (few.verdict.key_tokens, few.verdict.criteria) == (None, ["retrieval", "loss"])
