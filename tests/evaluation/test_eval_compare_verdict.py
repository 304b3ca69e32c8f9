"""Candidates, order, key tokens and words of `compare`, on made-up figures."""

from __future__ import annotations

import itertools
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from compared import KEYS, TARGET, WINDOW, Reader, comparison, reading_of

from ropewalk.analysis import effective_factor
from ropewalk.cli.compare_view import bars
from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.evaluation.candidates.choose import choose, merged
from ropewalk.evaluation.loss.key_tokens import KeyTokens, key_token_loss
from ropewalk.evaluation.loss.key_tokens import choose as choose_keys
from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.verdict.sentences import extend_command
from ropewalk.evaluation.verdict.worth import contexts_of, fine_tuning, worth_words
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import methods, schedule

SMALL = RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=512)
LARGE = RopeGeometry(head_dim=128, rope_theta=10000.0, original_length=4096)
ALL, NONE = (1.0,) * 4, (0.0,) * 4


def test_every_untrained_method_is_a_candidate_once() -> None:
    found, left_out = choose("all", SMALL, 8.0)
    labels = {label for item in found for label in (item.name, *item.same_as)}
    expected = {name for name, method in methods().items() if not method.needs_training and name != "none"}
    assert expected <= labels
    assert {item.name for item in left_out} == {
        name for name, method in methods().items() if method.needs_training
    }
    for one, other in itertools.combinations([item.schedule for item in found], 2):
        same = np.allclose(one.inv_freq, other.inv_freq, rtol=1e-9, atol=0)
        assert not (same and math.isclose(one.attention_factor, other.attention_factor))


@pytest.mark.parametrize("geometry", [SMALL, LARGE])
def test_reaching_variants_reach(geometry: RopeGeometry) -> None:
    found, _ = choose("all", geometry, 8.0)
    reaching = [item.schedule for item in found if item.variant == "reaching"]
    assert reaching
    for made in reaching:
        assert effective_factor(made) >= 8.0 * (1 - 1e-6)
        assert made.factor > 8.0


def test_betas_follow_small_windows_only() -> None:
    small = {item.variant for item in choose(["yarn"], SMALL, 8.0)[0]}
    assert small == {"default", "fitted betas"}
    assert len({item.slug for item in choose("all", SMALL, 8.0)[0]}) == len(choose("all", SMALL, 8.0)[0])


def test_training_methods_run_when_named() -> None:
    found, left_out = choose(["drope"], SMALL, 8.0)
    assert [item.name for item in found] == ["drope"]
    assert found[0].needs_training
    assert left_out == []


@pytest.mark.parametrize("wanted", [["none"], [], ["yarm"]])
def test_nothing_to_compare_is_refused(wanted: list[str]) -> None:
    with pytest.raises(UsageError):
        choose(wanted, SMALL, 8.0)


def test_equal_schedules_are_merged_and_nothing_else() -> None:
    made = [scheduled(name, schedule(name, SMALL, factor=8.0)) for name in ("ntk", "abf", "linear")]
    zones = [Candidate("zones", "zones"), Candidate("more zones", "zones")]
    found = [(item.name, item.same_as) for item in merged([*made, *zones])]
    assert found == [("ntk", ("abf",)), ("linear", ()), ("zones", ()), ("more zones", ())]
    with pytest.raises(UsageError, match="kind='magic'"):
        Candidate("a", "magic")


def test_good_at_loss_and_blind_far_away_is_not_recommended() -> None:
    """Mean loss likes the blind row by 0.15 nats; it finds nothing and gains nothing from far context."""
    rows = {
        "blind": Reader(far=1.8, keys=4.0, found=NONE),
        "seer": Reader(far=2.0, keys=1.0, found=ALL, inside=2.05),
    }
    result = comparison(rows)
    verdict = result.verdict
    assert [row.name for row in result.methods] == ["seer", "blind"]
    assert (verdict.recommended, verdict.group) == ("seer", ["seer"])
    assert verdict.retrieval_beats_cropping == ["seer"]
    assert (verdict.closing, verdict.criteria) == ("extend", ["retrieval", "key-tokens"])
    assert "surely more" in verdict.summary
    assert verdict.next.startswith("ropewalk extend made --method linear --target 256")
    by_loss = comparison(rows, rank="loss").verdict
    assert by_loss.recommended == ("seer" if tail_mean(rows["seer"]) < tail_mean(rows["blind"]) else "blind")


def tail_mean(reader: Reader) -> float:
    tail = np.full(TARGET, reader.far)
    tail[KEYS] = reader.keys
    return float(tail[-TARGET // 4 :].mean())


def test_finding_everything_at_a_bad_loss_is_not_recommended() -> None:
    """The reverse: both find everything, one reads far tokens worse than cropping does."""
    rows = {
        "broken": Reader(far=3.0, keys=3.5, found=ALL),
        "sound": Reader(far=1.95, keys=1.0, found=ALL, inside=2.1),
    }
    verdict = comparison(rows).verdict
    assert verdict.group == ["sound"]
    assert verdict.recommended == "sound"
    blind_far = comparison({"a": Reader(keys=0.5, found=ALL), "b": Reader(keys=1.5, found=ALL)}).verdict
    assert blind_far.group == ["a"]
    assert blind_far.key_tokens == "a"


def test_rank_chooses_what_comes_first() -> None:
    rows = {
        "finder": Reader(far=2.2, keys=3.0, found=ALL, inside=2.2),
        "reader": Reader(far=1.5, keys=2.0, found=NONE, inside=2.1),
        "cheap": Reader(far=2.4, keys=3.4, found=NONE, inside=2.0),
    }
    first = {
        rank: comparison(rows, rank=rank).verdict.group for rank in ("use", "retrieval", "loss", "window")
    }
    assert first == {"use": ["finder"], "retrieval": ["finder"], "loss": ["reader"], "window": ["cheap"]}
    assert comparison(rows, rank="key-tokens").methods[0].name == "reader"


def test_nothing_to_rank_by_and_one_row_are_said_as_they_are() -> None:
    rows = {"dear": Reader(inside=2.2), "cheap": Reader(inside=1.9)}
    nothing = comparison(rows, rank="key-tokens", key_gain=50.0)
    assert nothing.verdict.criteria == []
    assert nothing.verdict.points[0].startswith(
        "By key-token loss there is nothing to rank by here: rows stand by their loss inside the window, cheap first ("
    )
    alone = comparison({"cheap": rows["cheap"]})
    assert alone.verdict.points[0].startswith("At 256 tokens cheap is the only row (")


def test_rows_within_noise_are_a_group_and_the_cheapest_is_recommended() -> None:
    rows = {
        "dear": Reader(keys=1.0, found=ALL, inside=2.1, noise=0.2),
        "cheap": Reader(keys=1.02, found=ALL, inside=2.0, noise=0.2),
        "worse": Reader(keys=3.0, far=2.6, found=ALL, inside=1.9, noise=0.2),
    }
    result = comparison(rows)
    assert result.verdict.group == ["cheap", "dear"]
    assert result.verdict.recommended == "cheap"
    assert [(row.name, row.group, row.rank) for row in result.methods] == [
        ("cheap", True, 1), ("dear", True, 2), ("worse", False, 3),
    ]  # fmt: skip
    assert "2 rows cannot be told apart" in result.verdict.summary
    assert "cheap costs least inside the window" in result.verdict.summary


def test_rows_that_fell_out_alike_stand_by_their_loss() -> None:
    """Both find nothing: behind the finder they are told apart by what comes next, key tokens."""
    rows = {
        "finder": Reader(keys=1.0, found=ALL),
        "bad": Reader(keys=4.5, far=2.6, found=NONE),
        "good": Reader(keys=2.0, far=1.9, found=NONE),
    }
    result = comparison(rows)
    assert [row.name for row in result.methods] == ["finder", "good", "bad"]
    assert [row.rank_key for row in result.methods] == [1, 2, 3]
    assert result.methods[0].rank_retrieval == 1


def test_a_report_reads_the_new_result(tmp_path: Path) -> None:
    import ropewalk
    from ropewalk.runs import create_run

    rows = {"one": Reader(keys=1.0, found=ALL, noise=0.2), "two": Reader(keys=1.02, found=ALL, noise=0.2)}
    result = comparison(rows)
    with create_run("compare", {"model": "made", "target_length": TARGET}, path=tmp_path / "run") as run:
        run.write_json("result.json", result.to_json())
    ropewalk.report([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "2 rows cannot be told apart from the best" in page
    for words in ("recommended", "Key tokens", "What context is worth", "Loss at the end of each length"):
        assert words in page


def test_no_row_ahead_of_cropping_means_tune_or_train() -> None:
    draw = comparison({"one": Reader(keys=4.0, noise=0.3), "two": Reader(keys=4.1, noise=0.3)}).verdict
    assert (draw.closing, draw.beats_cropping) == ("tune", False)
    assert "Tune first" in draw.summary
    behind = comparison({"one": Reader(far=2.5, keys=4.5), "two": Reader(far=2.6, keys=4.5)}).verdict
    assert behind.closing == "train"
    assert behind.next == "ropewalk plan made --target 256 -o recipe.yaml"
    assert "surely behind" in behind.summary
    ahead = comparison({"one": Reader(far=1.7, keys=3.0)}).verdict
    assert (ahead.closing, ahead.text_beats_cropping) == ("extend", ["one"])


def test_too_few_documents_settle_nothing() -> None:
    """Two documents, two texts: whatever the means are, nothing is sure and no row leaves the group."""
    few = {
        "one": Reader(far=1.0, keys=1.0, found=(1.0, 1.0), found_inside=(1.0, 1.0)),
        "two": Reader(far=3.0, keys=3.0, found=(0.0, 0.0), found_inside=(1.0, 1.0)),
    }
    near = Reader(found=(0.0, 0.0), found_inside=(1.0, 1.0))
    result = comparison(few, cropped=near, unmodified=near, documents=[0, 0, 0, 0, 1, 1, 1, 1])
    assert sorted(result.verdict.group) == ["one", "two"]
    assert result.verdict.closing == "measure"
    assert result.row("one").loss_vs_cropped.low is None
    assert "2 documents do not settle" in result.verdict.summary


def test_the_best_of_many_rows_is_held_against_many_looks() -> None:
    """A gap that one row alone would have shown is no win where twenty were looked at."""
    alone = comparison({"row": Reader(far=1.8, keys=4.0, noise=0.25)})
    gap = alone.row("row").loss_vs_cropped
    rows = {f"row {n}": Reader(far=2.0, keys=4.0, noise=0.25) for n in range(20)}
    many = comparison(rows | {"row": Reader(far=1.8, keys=4.0, noise=0.25)})
    again = many.row("row").loss_vs_cropped
    assert again.p_family > again.p
    assert again.p_family == pytest.approx(min(1.0, again.p * 42), rel=1e-6) or again.p_family == 1.0
    # One family over both measures: the retrieval test, of which nothing came, counts as well.
    assert gap.p_family == pytest.approx(min(1.0, 2 * gap.p))


def test_a_task_that_is_not_done_inside_the_window_does_not_enter() -> None:
    """`graph` is beyond the model: what `lucky` finds of it by chance must not carry it to the front."""
    rows = {"able": Reader(keys=1.0, found=ALL), "lucky": Reader(keys=1.0, found=NONE)}
    graph = {
        "unmodified": Reader(found_inside=NONE),
        "able": Reader(found=NONE, found_inside=NONE),
        "lucky": Reader(found=ALL, found_inside=NONE),
    }
    result = comparison(rows, tasks={"graph": graph})
    assert [item.name for item in result.verdict.not_counted] == ["graph"]
    assert result.verdict.recommended == "able"
    assert result.row("lucky").retrieval_at_target == 0.0
    assert result.row("lucky").retrieval_by_task["graph"]["at_target"] == 1.0
    assert "Not counted: graph" in result.verdict.summary


def test_key_tokens_are_chosen_by_rule() -> None:
    long = np.array([np.nan, 0.5, 0.5, 1.9, 2.1, 0.1], dtype=np.float32)
    short = np.array([np.nan, 5.0, 2.6, 4.0, 5.0, 0.2], dtype=np.float32)
    keys = choose_keys(
        Reading.prefix({6: [long]}),
        Reading.prefix({6: [short]}),
        6,
        2,
        names=("a", "b"),
        bounds=(2.0, -2.0),
    )
    # Token 1 stands inside the window, token 4 is too unlikely, token 5 gains too little.
    assert keys.masks[0].tolist() == [False, False, True, True, False, False]
    assert (keys.count, keys.reverse, keys.told) == (2, 0, False)
    assert keys.to_json()["share"] == 0.5
    assert key_token_loss(Reading.prefix({6: [short]}), keys, 6).mean == pytest.approx(3.3)


def counted_keys(helped: list[int], hurt: list[int], owners: list[int]) -> KeyTokens:
    """Key tokens of segments in which so many tokens gain three nats, and so many lose them."""
    long, short = [], []
    for up, down in zip(helped, hurt, strict=True):
        far, near = np.full(202, 1.0, dtype=np.float32), np.full(202, 1.0, dtype=np.float32)
        near[2 : 2 + up] = 4.0
        far[2 + up : 2 + up + down] = 4.0
        long.append(far)
        short.append(near)
    return choose_keys(
        Reading.prefix({202: long}), Reading.prefix({202: short}), 202, 2, names=("a", "b"), owners=owners
    )


@pytest.mark.parametrize(
    ("helped", "hurt", "owners", "told", "why"),
    [
        # Differences of 10, 12, 8, 10 by document: 10 +- 3.182 * 1.633 / 2.
        ([30, 32, 28, 30], [20, 20, 20, 20], [0, 1, 2, 3], True, ""),
        # The same sums, but one document has them all: 10 +- 31.8.
        ([60, 20, 20, 20], [20, 20, 20, 20], [0, 1, 2, 3], False, "do not tell from noise"),
        ([30, 30], [20, 20], [0, 1], False, "in too few documents to tell from noise"),
        # Six segments of two documents are two values.
        ([30] * 6, [20] * 6, [0, 0, 0, 1, 1, 1], False, "in too few documents to tell from noise"),
        (
            [20, 20, 20],
            [30, 30, 30],
            [0, 1, 2],
            False,
            "60 tokens gain 2 nats from far context and 90 lose as much",
        ),
        (
            [16, 16, 16],
            [0, 0, 0],
            [0, 1, 2],
            False,
            "48 tokens gain 2 nats from far context, and 50 are wanted",
        ),
    ],
)
def test_key_tokens_are_told_from_noise_by_documents(
    helped: list[int], hurt: list[int], owners: list[int], told: bool, why: str
) -> None:
    keys = counted_keys(helped, hurt, owners)
    assert (keys.count, keys.reverse, keys.told) == (sum(helped), sum(hurt), told)
    assert why in keys.why_not
    assert bool(keys.why_not) is not told
    assert keys.to_json()["excess"] == pytest.approx((sum(helped) - sum(hurt)) / len(helped))
    if told:
        half = 3.182446 * (8 / 3) ** 0.5 / 2
        assert keys.to_json()["excess_ci"] == pytest.approx([10 - half, 10 + half], abs=1e-5)


def test_key_tokens_are_one_set_and_printed() -> None:
    rows = {"best": Reader(far=1.9, keys=1.0, found=ALL), "other": Reader(far=2.5, keys=3.0, found=ALL)}
    result = comparison(rows)
    beyond = int(KEYS[WINDOW:].sum())
    assert result.key_tokens["tokens"] == 8 * beyond
    assert result.key_tokens["reference"] == "best"
    assert (result.key_tokens["gain"], result.key_tokens["floor"]) == (2.0, -2.0)
    assert result.row("best").key_token_loss == pytest.approx(1.0, abs=0.35)
    # What documents share is the same in every row.
    difference = result.row("other").key_token_loss - result.row("best").key_token_loss
    assert difference == pytest.approx(2.0, abs=0.05)
    strict = comparison(rows, key_gain=3.5)
    assert strict.key_tokens["tokens"] == 0
    assert "Key tokens say nothing here: 0 tokens gain 3.5 nats" in strict.verdict.summary
    assert "--reference" in strict.verdict.summary
    assert strict.verdict.criteria == ["retrieval", "loss"]


def test_key_tokens_are_the_runs_and_no_rows_own() -> None:
    """`two` gains nothing on them: by its own choice it would have none. Two best rows choose by their mean."""
    rows = {"one": Reader(far=1.8, keys=0.5), "two": Reader(far=2.4, keys=4.0)}
    result = comparison(rows)
    assert result.key_tokens["reference"] == "one"
    plain = [row[KEYS].mean() for row in reading_of(rows["two"], 4).losses[TARGET]]
    assert result.row("two").key_token_loss == pytest.approx(np.mean(plain), abs=1e-5)
    alike = comparison({"one": Reader(keys=0.5, noise=0.2), "two": Reader(keys=0.6, noise=0.2)})
    assert alike.key_tokens["reference"] in ("the mean of one, two", "the mean of two, one")


def test_intervals_and_tests_of_a_comparison_are_over_documents() -> None:
    """Four documents of two segments: the mean of each is one value, and t has 3 degrees of freedom."""
    documents = [0, 0, 1, 1, 2, 2, 3, 3]
    readers = {"unmodified": Reader(far=5.0, keys=6.0), "cropped": Reader(), "row": Reader(noise=0.3)}
    result = comparison({"row": readers["row"]}, documents=documents)
    tails = {
        name: np.array(
            [row[-TARGET // 4 :].astype(np.float64).mean() for row in reading_of(reader, n).losses[TARGET]]
        )
        for n, (name, reader) in enumerate(readers.items(), start=1)
    }

    def over_documents(values: np.ndarray) -> list[float]:
        means = values.reshape(4, 2).mean(axis=1)
        half = 3.182446 * means.std(ddof=1) / 2
        return [means.mean() - half, means.mean() + half]

    row = result.row("row")
    assert row.loss[-1].tail_ci == pytest.approx(over_documents(tails["row"]), abs=1e-5)
    for gap, control in ((row.loss_vs_unmodified, "unmodified"), (row.loss_vs_cropped, "cropped")):
        between = tails["row"] - tails[control]
        assert gap.difference == pytest.approx(between.mean(), abs=1e-5)
        assert [gap.low, gap.high] == pytest.approx(over_documents(between), abs=1e-5)


def test_what_context_is_worth_is_measured_on_the_same_tokens() -> None:
    """A quarter of the window costs 0.3 nats over all of it, half 0.1: the last doubling is worth 0.1."""
    found = comparison({"row": Reader(far=2.4, keys=4.4, noise=0.0)}).verdict.fine_tuning
    assert found.contexts == [WINDOW // 4, WINDOW // 2, WINDOW]
    assert [step.gain for step in found.steps] == pytest.approx([0.2, 0.1], abs=1e-5)
    assert found.slope == pytest.approx(0.1, abs=1e-5)
    assert found.doublings == 2.0
    cropped = comparison({"row": Reader()}).controls["cropped"].loss_at_target
    assert found.expected_loss == pytest.approx(cropped - 2 * 0.1, abs=1e-4)
    assert found.loss_gain == pytest.approx(0.4 + 0.2, abs=0.05)
    assert found.told


def test_the_next_command_repeats_the_schedule() -> None:
    found = {item.name: item for item in choose(["ntk", "yarn"], SMALL, 8.0)[0]}
    row = comparison({"row": Reader()}).row("row")
    fitted = row.model_copy(update=found["yarn, fitted betas"].to_json())
    words = shlex.split(extend_command("my model", fitted, 4096, "OUT"))
    assert words[:3] == ["ropewalk", "extend", "my model"]
    assert f"beta_fast={fitted.parameters['beta_fast']}" in words
    reaching = row.model_copy(update=found["ntk, reaching"].to_json())
    words = shlex.split(extend_command("hemp", reaching, 4096, "OUT"))
    assert float(words[words.index("--factor") + 1]) == pytest.approx(reaching.factor, rel=1e-6)
    filed = row.model_copy(update={"file": "fitted.json", "variant": "file"})
    assert "--schedule fitted.json" in extend_command("hemp", filed, 4096, "OUT")


def test_bars() -> None:
    assert bars([0.0, 0.5, 1.0], 0.0, 1.0) == ["▁▄█"]
    assert bars([0.0, 1.0], 0.0, 1.0, height=2) == [" █", "▁█"]
    assert bars([1.0, 1.0], 1.0, 1.0) == ["▁▁"]


def test_what_training_can_bring_by_hand() -> None:
    """Four documents of one text each, t(3) = 3.182446: losses at 64, 128 and 256 tokens, to a target of 2,048."""
    by_context = {
        256: np.array([1.0, 1.2, 0.9, 1.1]),
        64: np.array([1.5, 1.6, 1.45, 1.53]),
        128: np.array([1.2, 1.36, 1.12, 1.28]),
    }
    best = np.array([0.9, 0.8, 0.7, 0.6])

    def interval(values: np.ndarray) -> list[float]:
        half = 3.182446 * values.std(ddof=1) / 2
        return [values.mean() - half, values.mean() + half]

    found = fine_tuning(by_context, list("abcd"), 2048, 4096, best, 0.25)
    assert found is not None
    last = by_context[128] - by_context[256]
    assert (found.contexts, found.tokens, found.doublings) == ([64, 128, 256], 4096, 3.0)
    assert found.losses == pytest.approx([1.52, 1.24, 1.05])
    assert [step.context for step in found.steps] == [128, 256]
    assert [step.gain for step in found.steps] == pytest.approx([0.28, 0.19])
    assert found.steps[0].ci == pytest.approx(interval(by_context[64] - by_context[128]), abs=1e-6)
    assert (found.slope, found.slope_ci) == (pytest.approx(0.19), pytest.approx(interval(last), abs=1e-6))
    # Three doublings more, each worth the last.
    expected = by_context[256] - 3 * last
    assert found.expected_loss == pytest.approx(expected.mean())
    assert found.expected_ci == pytest.approx(interval(expected), abs=1e-6)
    assert found.loss_gain == pytest.approx((best - expected).mean())
    low, high = interval(best - expected)
    assert found.loss_gain_ci == pytest.approx([max(0.0, low), high], abs=1e-6)
    assert (found.retrieval_gain, found.told) == (0.25, True)
    # A reader that is ahead of it already gains nothing; without one nothing is said of a gain.
    ahead = fine_tuning(by_context, list("abcd"), 2048, 4096, expected - 0.5, None)
    assert ahead is not None
    assert (ahead.loss_gain, ahead.loss_gain_ci) == (0.0, [0.0, 0.0])
    without = fine_tuning(by_context, list("abcd"), 2048, 4096, None, None)
    assert without is not None
    assert (without.loss_gain, without.loss_gain_ci) == (None, None)
    # Nothing to be told where the last doubling may be worth nothing, or the target is the window.
    unsure = fine_tuning(
        by_context | {128: by_context[256] + [0.2, -0.2, 0.2, 0.0]}, list("abcd"), 2048, 1, None, None
    )
    inside = fine_tuning(by_context, list("abcd"), 256, 1, None, None)
    assert unsure is not None
    assert inside is not None
    assert not unsure.told
    assert (inside.told, inside.doublings) == (False, 0.0)
    assert fine_tuning({256: by_context[256]}, list("abcd"), 2048, 1, None, None) is None
    assert (worth_words(without, None), worth_words(unsure, 1.0), worth_words(None, 1.0)) == ("", "", "")
    said = worth_words(found, 1.075)
    assert "gains 0.190 nats [0.149 .. 0.231]" in said
    assert "(0.280 from the one before)" in said
    assert f"cropping's 1.075 would become {expected.mean():.3f}" in said
    two = fine_tuning({256: by_context[256], 128: by_context[128]}, list("abcd"), 2048, 1, None, None)
    assert two is not None
    assert "from the one before" not in worth_words(two, 1.0)
    assert (contexts_of(512), contexts_of(63), contexts_of(64)) == ([128, 256, 512], [31, 63], [16, 32, 64])


def test_a_gain_that_is_counted_as_none_has_no_interval_that_runs_backwards() -> None:
    found = comparison({"row": Reader(inside=1.0, far=1.0, keys=1.0, noise=0.001)}).verdict.fine_tuning
    assert (found.loss_gain, found.loss_gain_ci) == (0.0, [0.0, 0.0])


def test_a_row_that_is_not_there_suggests_one_that_is() -> None:
    result = comparison({"yarn": Reader(), "linear": Reader()})
    assert result.row("cropped").name == "cropped"
    with pytest.raises(UsageError, match="no row 'yarm': did you mean yarn"):
        result.row("yarm")


def test_without_any_row_nothing_is_said_of_a_gain() -> None:
    found = comparison({}).verdict.fine_tuning
    assert found.slope == pytest.approx(0.1, abs=1e-5)
    assert (found.loss_gain, found.loss_gain_ci) == (None, None)
