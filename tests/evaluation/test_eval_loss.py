"""Loss tables: known answers, agreement with plain loops, controls that equal a manual crop, intervals."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from eval_models import WORDS, byte_tokenizer, plain_loss, text_ids, tiny

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss.controls import Crop, read_cropped, tail_difference
from ropewalk.evaluation.loss.reading import Reading, by_length, by_position, forwards_needed, read_prefix
from ropewalk.evaluation.loss.sliding import plan_windows, window_mean, windows_loss
from ropewalk.evaluation.loss.units import prefix_reading, prefix_units, run_units
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.verdict.effective import effective_length, far_repeats, length_score, long_tokens
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.processes import Processes
from ropewalk.text.corpus import Document
from ropewalk.text.segments import Segment, Segments, cut

NO_LOSS = np.full(1, np.nan, dtype=np.float32)


def segments_of(ids: torch.Tensor) -> list[Segment]:
    return [Segment(f"text {index}", 0, row.numpy()) for index, row in enumerate(ids)]


def test_a_uniform_model_has_ln_v_at_every_length() -> None:
    model = tiny()
    torch.nn.init.zeros_(model.lm_head.weight)
    engine = Engine(model, chunk=32)
    ids = text_ids(128, rows=3)
    rows = read_prefix(engine, segments_of(ids), 128)
    cropped = [read_cropped(engine, segment, Crop(64, 16)) for segment in segments_of(ids)]
    for row in by_length(Reading.prefix(dict.fromkeys([16, 64, 128], rows)), [16, 64, 128]):
        assert row.loss.mean == pytest.approx(math.log(WORDS), rel=1e-6)
        assert row.tail.mean == pytest.approx(math.log(WORDS), rel=1e-6)
        assert row.loss.pair == pytest.approx([math.log(WORDS)] * 2, rel=1e-5)
    assert np.nanmean(cropped[0]) == pytest.approx(math.log(WORDS), rel=1e-6)
    assert all(point["loss"] == pytest.approx(math.log(WORDS), rel=1e-6) for point in by_position(rows))


def test_prefix_agrees_with_truncated_documents() -> None:
    model, ids = tiny(), text_ids(128, rows=2)
    rows = read_prefix(Engine(model, chunk=48), segments_of(ids), 128)
    table = by_length(Reading.prefix(dict.fromkeys([16, 50, 128], rows)), [16, 50, 128])
    for row in table:
        plain = plain_loss(model, ids[:, : row.length])
        assert row.loss.mean == pytest.approx(float(plain.mean()), rel=1e-4)
        tail = plain[:, -int(row.length * 0.25) :]
        assert row.tail.mean == pytest.approx(float(tail.mean()), rel=1e-4)


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE |= {"original_max_position_embeddings": 64, "factor": 8.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.parametrize(("rope", "forwards"), [(LONGROPE, 2), (DYNAMIC, 3)])
def test_a_length_rule_is_measured_length_by_length(rope: dict[str, Any], forwards: int) -> None:
    """Past its switch such a model reads the beginning of a long text unlike a short one: each gets its own forward."""
    model, ids, lengths = tiny(rope_parameters=rope), text_ids(160, rows=2), [32, 64, 100, 160]
    engine = Engine(model, chunk=48)
    segments = Segments(tuple(segments_of(ids)), 160, (), False, ())
    units = prefix_units(engine, segments, lengths, "model")
    assert len({name.rsplit("-", 1)[0] for unit in units for name in unit.names}) == forwards
    found = run_units(units, Cells(None), Processes(), lambda tokens: None)
    table = by_length(prefix_reading(engine, lengths, found, "model", 2), lengths)
    for row in table:
        fresh = tiny(rope_parameters=rope)
        assert row.loss.mean == pytest.approx(float(plain_loss(fresh, ids[:, : row.length]).mean()), rel=1e-4)


def published_loop(
    model: torch.nn.Module, ids: torch.Tensor, window: int, stride: int
) -> tuple[float, float]:
    """The sliding loop of the transformers documentation and of the YaRN script: by token, and by window."""
    total, count, means, before = 0.0, 0, [], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        target = ids[:, begin:end].clone()
        target[:, : -(end - before)] = -100
        with torch.inference_mode():
            loss = float(model(input_ids=ids[:, begin:end], labels=target, use_cache=False).loss)
        scored = int((target[:, 1:] != -100).sum())
        total, count, before = total + loss * scored, count + scored, end
        means.append(loss)
        if end == ids.shape[1]:
            break
    return total / count, float(np.mean(means))


@pytest.mark.parametrize(("window", "stride"), [(40, 16), (64, 64), (32, 8), (200, 64)])
def test_sliding_agrees_with_the_published_loop(window: int, stride: int) -> None:
    model, ids = tiny(), text_ids(137)
    by_token, by_window = published_loop(model, ids, window, stride)
    windows = plan_windows(137, window, stride)
    losses = windows_loss(Engine(model, chunk=24), ids[0].numpy(), windows)
    assert np.nanmean(losses) == pytest.approx(by_token, rel=1e-4)
    assert window_mean(losses, windows) == pytest.approx(by_window, rel=1e-4)


def test_the_exact_crop_equals_a_manual_crop() -> None:
    model, ids, length = tiny(), text_ids(90), 24
    found = read_cropped(Engine(model, chunk=16), segments_of(ids)[0], Crop(length, 1))
    for position in range(1, 90):
        seen = ids[:, max(0, position + 1 - length) : position + 1]
        assert found[position] == pytest.approx(float(plain_loss(model, seen)[0, -1]), rel=1e-4)


def test_a_crop_of_the_end_alone_equals_the_whole_crop_there() -> None:
    """Tokens from `first` on, each behind length - stride to length - 1 others, whatever stands before."""
    model, ids = tiny(), text_ids(90)
    segment, crop, first = segments_of(ids)[0], Crop(16, 4), 61
    found = read_cropped(Engine(model, chunk=16), segment, crop, first=first)
    assert np.isnan(found[:first]).all()
    for position in range(first, 90):
        # The windows end at first + 1, first + 5, ...: the last token of a window sees 15 others.
        ends = first + 1 + 4 * -(-(position - first) // 4)
        seen = ids[:, ends - 16 : position + 1]
        assert found[position] == pytest.approx(float(plain_loss(model, seen)[0, -1]), rel=1e-4)


def test_a_strided_crop_sees_no_more_than_the_crop() -> None:
    model, ids = tiny(), text_ids(90)
    found = read_cropped(Engine(model, chunk=16), segments_of(ids)[0], Crop(24, 6))
    for window in plan_windows(90, 24, 6):
        plain = plain_loss(model, ids[:, window.begin : window.end])[0]
        expected = plain[window.first - window.begin - 1 :]
        assert found[window.first : window.end].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_cropped_windows_begin_with_the_opening() -> None:
    model, ids = tiny(), text_ids(60)
    windows = plan_windows(60, 24, 6)
    found = windows_loss(Engine(model), ids[0].numpy(), windows, opening=[256])
    last = ids[:, windows[-1].begin : windows[-1].end].clone()
    last[0, 0] = 256
    assert found[-6:].tolist() == pytest.approx(plain_loss(model, last)[0, -6:].tolist(), rel=1e-4)


def test_unusable_windows_and_crops_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot slide"):
        plan_windows(100, 32, 64)
    with pytest.raises(UsageError, match="crop_stride=100"):
        Crop.of(64, 100)
    with pytest.raises(UsageError, match="does not fit"):
        Reading.prefix({64: [np.zeros(32, dtype=np.float32)]})


def test_segments_are_consecutive_and_dealt_by_document() -> None:
    documents = [Document("a", "a" * 70), Document("b", "b" * 25), Document("c", "c" * 45)]
    found = cut(documents, byte_tokenizer(bos=True), 21, limit=4)
    assert [(item.document, item.index) for item in found.items] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    assert all(item.ids[0] == 256 and len(item.ids) == 21 for item in found.items)
    assert found.owners == [0, 0, 1, 2]
    short = cut([*documents, Document("d", "dd")], byte_tokenizer(), 40, join="no")
    assert short.remarks[0] == "2 of 4 documents are shorter than a segment and left out: b, d"


def test_short_text_says_what_is_missing_or_is_joined() -> None:
    documents = [Document("a", "a" * 30), Document("b", "b" * 30)]
    with pytest.raises(
        RopewalkError,
        match=r"\(a\) has 30 tokens, length 50 needs 50: 20 are missing: .* a shorter length, or pass",
    ):
        cut(documents, byte_tokenizer(), 50, join="no")
    joined = cut(documents, byte_tokenizer(), 50)
    assert joined.joined
    assert "joined" in joined.remarks[-1]
    with pytest.raises(
        RopewalkError, match="the whole text has 64 tokens, length 100 needs 100: 36 are missing"
    ):
        cut(documents, byte_tokenizer(), 100)


def reading_of(value: float, length: int = 128) -> Reading:
    row = np.concatenate([NO_LOSS, np.full(length - 1, value, dtype=np.float32)])
    return Reading.prefix({key: [row, row] for key in (32, 64, 128)})


def scores_of(accuracies: dict[int, float], task: str = "needle", texts: int = 20) -> list[SampleScore]:
    """One question a text; the first `accuracy` share of the texts are answered."""
    return [
        SampleScore(
            task, length, 0.5, index, 0, "teacher-forced", "full", float(index < accuracy * texts), 0.01
        )
        for length, accuracy in accuracies.items()
        for index in range(texts)
    ]


def test_effective_length_needs_both_sides() -> None:
    held = scores_of({32: 1.0, 64: 0.9, 128: 0.2})
    good = effective_length([32, 64, 128], held, reading_of(2.0), [reading_of(2.1)])
    assert good["length"] == 64
    assert [row["retrieval_holds"] for row in good["evidence"]] == [True, True, False]
    assert [row["retrieval"] for row in good["evidence"]] == pytest.approx([1.0, 0.9, 0.2])
    assert "retrieval falls to 0.20" in good["why"]
    every = scores_of({32: 1.0, 64: 1.0, 128: 1.0})
    worse = effective_length([32, 64, 128], every, reading_of(2.2), [reading_of(2.1)])
    assert worse["length"] is None
    assert "0.100 nats worse" in worse["why"]
    # Of several cropped controls the one that reads best counts.
    strong = effective_length([32], every, reading_of(2.05), [reading_of(2.1), reading_of(2.0)])
    assert strong["evidence"][0]["tail_minus_cropped"] == pytest.approx(0.05, abs=1e-6)
    assert strong["length"] is None
    for scores, losses, cropped, missing in (
        ([], reading_of(2.0), [reading_of(2.0)], "retrieval was"),
        (every, None, [reading_of(2.0)], "loss and the cropped control were"),
        (every, reading_of(2.0), [], "loss and the cropped control were"),
    ):
        nothing = effective_length([32], scores, losses, cropped, threshold=0.7)
        assert nothing == {
            "length": None, "threshold": 0.7, "short_score": None, "short_length": None, "evidence": [],
            "left_out": [], "why": f"{missing} not measured; an effective length needs both",
        }  # fmt: skip


def test_one_forward_answers_every_length_of_a_rotation_that_stands_still() -> None:
    still = SimpleNamespace(regime=None)
    assert forwards_needed(still, [128, 32, 64]) == [[32, 64, 128]]
    switching = SimpleNamespace(regime=SimpleNamespace(groups=lambda lengths: [lengths[:1], lengths[1:]]))
    assert forwards_needed(switching, [128, 32, 64]) == [[32], [64, 128]]


@pytest.mark.parametrize(("found", "worse", "length"), [
    (0.86, 0.009, 64), (0.84, 0.009, 32), (0.86, 0.012, None), (0.84, -0.5, 32),
])  # fmt: skip
def test_a_length_holds_from_85_per_cent_and_to_a_hundredth_of_a_nat(
    found: float, worse: float, length: int | None
) -> None:
    scores = scores_of({32: 1.0, 64: found}, texts=100)
    document = effective_length([32, 64], scores, reading_of(2.0 + worse), [reading_of(2.0)])
    assert document["length"] == length


def test_a_length_behind_one_that_fell_does_not_count() -> None:
    scores = scores_of({32: 1.0, 64: 0.2, 128: 1.0})
    assert effective_length([32, 64, 128], scores, reading_of(2.0), [reading_of(2.1)])["length"] == 32


def test_the_curve_has_the_mean_of_each_span_at_its_place() -> None:
    """17 tokens on four edges of a constant ratio, 17 ** (k / 4) rounded: 1, 2, 4, 8, 17. Token i has loss i."""
    row = np.arange(17, dtype=np.float32)
    row[0] = np.nan
    curve = by_position([row, row + 2, row + 1], points=4)
    assert [(point["start"], point["end"]) for point in curve] == [(1, 2), (2, 4), (4, 8), (8, 17)]
    assert [point["loss"] for point in curve] == pytest.approx([2.0, 3.5, 6.5, 13.0], abs=1e-12)
    # Three documents a nat apart: 4.302653 (Student's t, 2 degrees) / sqrt(3) to each side.
    assert curve[3]["ci"] == pytest.approx([13 - 2.484138, 13 + 2.484138], abs=1e-5)


def test_the_length_score_is_relative_to_the_short_one() -> None:
    """A weak model with a long reach is told from a strong one with a short reach."""
    weak = scores_of({32: 0.4, 128: 0.4})
    strong = scores_of({32: 1.0, 128: 0.5})
    for scores, share, length in ((weak, 1.0, 128), (strong, (0.5 * 0.99 / 0.99), 32)):
        found = effective_length([32, 128], scores, reading_of(2.0), [reading_of(2.1)])
        # A wrong answer is 0 credit, below chance: it counts as nothing found, not as less than nothing.
        assert found["evidence"][1]["length_score"] == pytest.approx(share, abs=0.03)
        assert found["length"] == length
    half = length_score(strong, 128, 32)
    assert half.units == 20
    # 20 texts, each 1 or 0 of 1: the interval of a share of one half, by hand: t(19) = 2.093, s = 0.513 / sqrt(20).
    assert half.pair == pytest.approx([0.5 - 2.093 * 0.1147, 0.5 + 2.093 * 0.1147], abs=2e-3)
    lax = effective_length([32, 128], strong, reading_of(2.0), [reading_of(2.1)], threshold=0.45)
    assert lax["length"] == 128


def test_a_task_that_is_not_done_at_the_short_length_does_not_count() -> None:
    chance = scores_of({32: 0.0, 64: 0.0})
    found = effective_length([32, 64], chance, reading_of(2.0), [reading_of(2.1)])
    assert found["length"] is None
    assert "not above chance" in found["why"]
    both = [*scores_of({32: 1.0, 64: 1.0}), *scores_of({32: 0.0, 64: 0.0}, task="graph")]
    found = effective_length([32, 64], both, reading_of(2.0), [reading_of(2.1)])
    assert found["left_out"] == ["graph"]
    assert found["length"] == 64
    assert found["short_score"] == 1.0


def test_tail_difference_is_paired() -> None:
    noise = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    model = Reading.prefix({128: list(noise)})
    control = Reading.prefix({128: list(noise + np.float32(0.25))})
    difference = tail_difference(model, control, 128)
    assert difference.pair == pytest.approx([-0.25, -0.25], abs=1e-5)


def test_far_repeats_are_found_by_the_text_alone() -> None:
    near, far = [9, 8, 7, 6], [1, 2, 3, 4]
    ids = np.array([*far, *range(20, 60), *near, 70, *near, *far])
    found = far_repeats(ids, window=30)
    assert found.nonzero()[0].tolist() == [len(ids) - 1]
    full = np.full(len(ids), 1.0, dtype=np.float32)
    cropped = full.copy()
    cropped[-1] = 5.0
    rows = long_tokens(
        [ids], Reading.prefix({len(ids): [full]}), Reading.prefix({len(ids): [cropped]}), [len(ids)], 30
    )
    assert rows[0] | {"perplexity": 0.0} == {
        "length": len(ids), "tokens": 1, "loss": 1.0, "perplexity": 0.0, "cropped_loss": 5.0,
        "helped": pytest.approx(1 / (len(ids) - 30)), "hurt": 0.0,
    }  # fmt: skip


def test_windows_that_do_not_overlap_leave_a_last_token_out() -> None:
    """129 tokens in windows of 64 leave one, which has nothing before it to be read with."""
    assert [(one.begin, one.end, one.first) for one in plan_windows(129, 64, 64)] == [
        (0, 64, 1),
        (64, 128, 64),
    ]
    assert [(one.begin, one.end) for one in plan_windows(130, 64, 64)] == [(0, 64), (64, 128), (128, 130)]
    losses = windows_loss(Engine(tiny()), text_ids(129)[0], plan_windows(129, 64, 64))
    # The first token of a window is not scored either.
    assert np.flatnonzero(np.isnan(losses)).tolist() == [0, 64, 128]
