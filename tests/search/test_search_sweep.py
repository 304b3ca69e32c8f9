"""Sweep, evolution, CMA-ES: what they try, what they keep, what they refuse."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from search_models import WINDOW, make_model, short_tune

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods.walk import band_profile
from ropewalk.search import evolution, opponents
from ropewalk.search.cma import START, schedule_at
from ropewalk.search.evolution import EvolutionSettings, Individual, Population, crossed, evolve, mutated
from ropewalk.search.family import tuned_schedule
from ropewalk.search.job import Rung
from ropewalk.search.objective import Objective, Terms, joined, terms_of, weigh
from ropewalk.search.reading import NonFiniteLossError, Reader
from ropewalk.search.rows import Row
from ropewalk.search.sweep import Measured, at_factor, best_that_finds, candidates, finalists, sweep

GEOMETRY = ropewalk.RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=256)


def test_the_sweep_offers_closed_forms_and_bands_below_one_rotation() -> None:
    offered = candidates(GEOMETRY, 8.0)
    names = {name for item in offered for name in (item.name, *item.same_as)}
    assert {"yarn", "mrrope-pro", "llama3", "linear", "ntk", "yarn 4..0.5", "mrrope-pro 8..0.5"} <= names
    low = next(item.schedule for item in offered if item.name == "yarn 4..0.5")
    turns = GEOMETRY.rotations
    assert low.stretch[turns > 4.2].max() == pytest.approx(1.0)
    assert low.stretch[turns < 0.45].min() == pytest.approx(8.0)
    pairs = [(item.schedule.inv_freq.tobytes(), item.schedule.attention_factor) for item in offered]
    assert len(pairs) == len(set(pairs))


class Judged:
    """A reader whose J is the distance of the attention factor from 1.3; records which rows it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, list[int]]] = []

    def terms(self, made: Any, rows: Any) -> Terms:
        self.asked.append((made.attention_factor, [int(item.row.ids[0]) for item in rows]))
        if made.attention_factor > 1.9:
            raise NonFiniteLossError("the loss is not a number", hint="")
        value = abs(made.attention_factor - 1.3)
        return Terms(value, [value] * len(rows), None, None, None, None, None)


TWENTY = weigh([Row(np.full(8, number)) for number in range(20)], 4, Objective())


def test_successive_halving_measures_the_best_on_all_rows() -> None:
    heats = [1.0 + 0.05 * number for number in range(20)]
    flat = np.zeros(GEOMETRY.half_dim)
    offered = [
        SimpleNamespace(name=f"{heat:.2f}", schedule=tuned_schedule(GEOMETRY, 8.0, flat, heat))
        for heat in heats
    ]
    reader: Any = Judged()
    found = sweep(reader, offered, TWENTY)
    assert [item.name for item in found[:3]] in (["1.30", "1.25", "1.35"], ["1.30", "1.35", "1.25"])
    # 20 candidates, one of them without a finite loss; 0.3 of 19, rounded up; a third of those, three at least. Of
    # 20 rows 7, then those up to 13, then the rest: none is read twice.
    rounds = [list(range(7))] * 20 + [list(range(7, 13))] * 6 + [list(range(13, 20))] * 3
    assert [asked for _, asked in reader.asked] == rounds
    assert [len(item.terms.by_row) for item in found] == [20] * 3 + [13] * 3 + [7] * 13
    assert "1.95" not in {item.name for item in found}


@pytest.mark.parametrize("split", [0, 1, 2, 5, 9, 10])
def test_terms_of_rows_read_in_two_parts_are_those_of_all(split: int) -> None:
    rng = np.random.default_rng(4)
    rows = [
        Row(rng.integers(0, 9, 40), *([] if number % 3 else [("kv", "needle")[number % 2], 0.2, (38, 39)]))
        for number in range(10)
    ]
    keys = [(rng.random(40) > 0.8) * (number > 3) * 1.0 for number in range(10)]
    weighed = weigh(rows, 16, Objective(), keys)
    losses, found = list(rng.random((10, 40))), list(rng.random(10) > 0.5)
    whole = terms_of(weighed, losses, found, 16, 8)
    one, other = (
        terms_of(weighed[part], losses[part], found[part], 16, 8) for part in (slice(split), slice(split, 10))
    )
    texts, answers = (
        [weighed[at].weights @ losses[at] for at in range(10) if bool(rows[at].answer) == kind]
        for kind in (False, True)
    )
    assert whole.value == pytest.approx(np.mean(texts) + np.mean(answers))
    again = joined(one, other, weighed)
    assert again.found == whole.found
    assert again.by_row == whole.by_row
    for name in ("value", "text", "tail", "window", "key", "answer"):
        assert getattr(again, name) == pytest.approx(getattr(whole, name), rel=1e-12), name
    assert None not in (whole.text, whole.key, whole.answer)


def test_a_start_at_another_factor() -> None:
    yarn = Measured(
        "yarn",
        ropewalk.schedule("yarn", GEOMETRY, factor=8, beta_fast=4.0),
        Judged().terms(ropewalk.schedule("yarn", GEOMETRY, factor=8), []),
    )
    again = at_factor(yarn, 2.0)
    assert (
        again.inv_freq.tolist()
        == ropewalk.schedule("yarn", GEOMETRY, factor=2, beta_fast=4.0).inv_freq.tolist()
    )
    profile = band_profile(GEOMETRY, 8.0, 0.5)
    band = Measured("band", tuned_schedule(GEOMETRY, 8.0, profile, 1 + 0.07 * math.log(8)), yarn.terms)
    moved = at_factor(band, 2.0)
    np.testing.assert_allclose(moved.profile, profile, atol=1e-12)
    assert moved.attention_factor == pytest.approx(1 + 0.07 * math.log(2))


def test_the_cma_space_holds_yarns_band() -> None:
    made = schedule_at(GEOMETRY, 8.0, START)
    np.testing.assert_allclose(made.profile, band_profile(GEOMETRY, 32.0, 1.0), atol=1e-12)
    assert made.attention_factor == pytest.approx(1 + 0.1 * math.log(8))


def test_children_are_non_decreasing_lists_on_the_grid() -> None:
    rng = np.random.default_rng(0)
    parent = Individual(tuple(np.round(np.linspace(1, 8, 12), 2)), 4)
    other = Individual(tuple(np.round(np.linspace(1, 10, 12), 2)), 64)
    changed = 0
    for _ in range(50):
        for child in (mutated(parent, 8.0, 0.3, rng), crossed(parent, other, rng)):
            assert all(a <= b for a, b in zip(child.factors, child.factors[1:], strict=False))
            assert child.factors[0] >= 1.0
            assert child.factors[-1] <= 10.0
            assert all(round(value * 100) == pytest.approx(value * 100) for value in child.factors)
            assert child.kept_first in evolution.KEPT_FIRST
            changed += child.factors != parent.factors
    assert changed > 60


def test_evolution_never_loses_its_best_and_goes_on_where_it_stopped() -> None:
    settings = EvolutionSettings(
        population=6, mutations=3, crossovers=2, parents=3, iterations=3, texts=2, seed=5
    )
    texts = [Row(np.random.default_rng(seed).integers(0, 256, 130)) for seed in range(3)]
    with Reader(make_model()) as reader:
        kept: list[dict[str, Any]] = []
        whole = evolve(reader, texts, 2.0, settings, lambda found: kept.append(found.to_json()))
        losses = [point["loss"] for point in whole.curve]
        assert len(losses) == 4
        assert all(later <= earlier for earlier, later in itertools.pairwise(losses))
        # 6 at first, 5 in each of 3 iterations, 2 texts each.
        assert reader.tokens == (6 + 3 * 5) * 2 * 130
        begun = Population.from_json(json.loads(json.dumps(kept[1])))
        again = evolve(reader, texts, 2.0, settings, lambda found: None, begun)
        assert again.best == whole.best
        made = evolution.schedule_of(reader.rotation.geometry, 2.0, whole.best)
        read, _ = reader.read(made, [row.ids for row in texts[:2]], whole.best.kept_first)
    assert whole.best.loss == pytest.approx(float(np.mean([loss[1:].mean() for loss in read])))
    assert made.attention_factor == pytest.approx(math.sqrt(1 + math.log(2) / math.log(WINDOW)))


def test_cma_without_its_packages_says_what_to_install(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RopewalkError, match="optuna") as caught:
        short_tune(model_folder, text_folder, tmp_path / "run", target="2x", search="cma", budget=2)
    assert "ropewalk[search]" in caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_cma_counts_its_trials(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("cmaes")
    found = short_tune(model_folder, text_folder, tmp_path / "run", target="2x", search="cma", budget=5)
    assert found.steps == 5
    assert found.schedule.is_file()


def test_a_sweep_alone_keeps_its_best(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    found = short_tune(model_folder, text_folder, tmp_path / "run", target="2x", search="sweep")
    assert (found.steps, found.start, found.kept_start) == (0, "yarn", None)
    assert found.rungs[0].schedule.method == "yarn"
    assert "best of the sweep" in found.verdict()


def test_opponents_have_no_ladder(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ladder"):
        short_tune(model_folder, text_folder, tmp_path / "run", ladder=[2, 4], search="evolution")


def test_an_evolution_counts_the_rows_of_its_first_population_too(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(
        EvolutionSettings, population=5, parents=3, mutations=2, crossovers=1, texts=2, iterations=1
    )
    monkeypatch.setattr(opponents, "EvolutionSettings", few)
    found = short_tune(model_folder, text_folder, tmp_path / "run", target="2x", search="evolution")
    assert found.passes == (5 + 2 + 1) * 2


def test_weights_have_no_far_part_inside_the_window() -> None:
    [item] = weigh([Row(np.zeros(40, dtype=int))], WINDOW, Objective(window=0.5))
    assert item.weights.sum() == pytest.approx(1.5)
    np.testing.assert_allclose(item.weights[1:], 1.5 / 39)


def test_defaults_stay_until_all_rows_are_read() -> None:
    flat = np.zeros(GEOMETRY.half_dim)
    heats = {"yarn": 1.9, **{f"{number}": 1.3 + 0.01 * number for number in range(12)}}
    made = {name: tuned_schedule(GEOMETRY, 8.0, flat, heat) for name, heat in heats.items()}
    offered: Any = [SimpleNamespace(name=name, schedule=schedule) for name, schedule in made.items()]
    reader: Any = Judged()
    found = sweep(reader, offered, TWENTY)
    assert [asked for heat, asked in reader.asked if heat == 1.9] == [
        list(range(7)),
        list(range(7, 13)),
        list(range(13, 20)),
    ]
    places = finalists([item.name for item in found])
    assert [found[place].name for place in places] == ["0", "1", "2", "yarn"]


# Two rows of text and three questions of one task, and two further ones.
QUESTIONS = [Row(np.zeros(400, dtype=int), "kv", 0.1, (399,))] * 3
VALIDATED = weigh([*[Row(np.zeros(400, dtype=int))] * 2, *QUESTIONS], 256, Objective())
VALIDATION = Rung(8.0, 2048, [], [], VALIDATED, {}, weigh(QUESTIONS[:2], 256, Objective()))


def validated(name: str, texts: list[float], answers: list[float], hits: list[float]) -> Measured:
    value = float(np.mean(texts) + np.mean(answers))
    subject: Any = name
    return Measured(
        name, subject, Terms(value, [*texts, *answers], None, None, None, None, None, {"kv": hits})
    )


def chosen(measured: list[Measured], further: dict[str, list[float]] | None = None) -> tuple[str, list[str]]:
    """What is chosen, and who was asked further questions; `further` says who finds what of them."""
    asked: list[str] = []

    def terms(subject: Any, rows: Any) -> Terms:
        assert len(rows) == 2
        asked.append(subject)
        return Terms(0.0, [0.0, 0.0], None, None, None, None, None, {"kv": (further or {})[subject]})

    reader: Any = SimpleNamespace(terms=terms)
    return best_that_finds(measured, reader, VALIDATION).name, asked


def test_the_start_keeps_the_answers_of_the_best_default() -> None:
    none = validated("none", [1.0, 1.0], [0.5] * 3, [0.0, 0.0, 0.0])
    yarn = validated("yarn", [1.2, 1.2], [0.5] * 3, [1.0, 1.0, 0.0])
    pro = validated("mrrope-pro", [1.1, 1.1], [0.5] * 3, [0.0, 0.0, 0.0])
    assert chosen([none, yarn, pro]) == ("yarn", [])
    good = validated("good band", [1.1, 1.1], [0.5] * 3, [0.0, 1.0, 1.0])
    assert chosen([none, yarn, pro, good]) == ("good band", [])
    assert chosen([none]) == ("none", [])


def test_where_the_best_misses_one_answer_further_questions_decide() -> None:
    yarn = validated("yarn", [1.2, 1.2], [0.5] * 3, [1.0, 1.0, 0.0])
    one = validated("band", [1.0, 1.0], [0.5] * 3, [1.0, 0.0, 0.0])
    # In all 5 questions one of three that differ is lost, and three of three.
    noise, misses = {"yarn": [1.0, 0.0], "band": [0.0, 1.0]}, {"yarn": [1.0, 1.0], "band": [0.0, 0.0]}
    assert chosen([yarn, one], noise) == ("band", ["yarn", "band"])
    assert chosen([yarn, one], misses) == ("yarn", ["yarn", "band"])
    # Of the defaults too: walk, of lower J, is asked, and the higher ones behind it are not.
    walk = validated("walk", [1.1, 1.1], [0.5] * 3, [0.0, 1.0, 0.0])
    llama = validated("llama3", [1.3, 1.3], [0.5] * 3, [0.0, 1.0, 0.0])
    told = misses | {"walk": [1.0, 1.0]}
    assert chosen([llama, yarn, walk, one], told) == ("walk", ["yarn", "band", "walk"])
    # A band that leads is held against the lowest default behind it that keeps the answers.
    sure = validated("sure band", [1.0, 1.0], [0.5] * 3, [1.0, 1.0, 0.0])
    near = validated("near band", [1.1, 1.0], [0.5] * 3, [1.0, 1.0, 0.0])
    assert chosen([yarn, walk, sure], told) == ("sure band", ["yarn", "walk"])
    assert chosen([yarn, walk, near], told) == ("walk", ["yarn", "walk"])
    assert chosen([yarn, walk, near], misses | {"walk": [0.0, 0.0]}) == ("near band", ["yarn", "walk"])
    early = validated("walk", [0.9, 0.9], [0.5] * 3, [0.0, 1.0, 0.0])
    assert chosen([yarn, early, sure], misses | {"walk": [0.0, 0.0]}) == ("sure band", ["yarn", "walk"])


def test_a_default_stays_where_a_band_is_ahead_within_its_noise() -> None:
    hits = [1.0, 1.0, 1.0]
    yarn = validated("yarn", [1.0, 1.0], [0.5, 0.5, 0.5], hits)
    walk = validated("walk", [0.9, 1.0], [0.5, 0.5, 0.5], hits)
    # Ahead of walk in text by 0.045 ± 0.055, then by 0.05 ± 0.03.
    assert chosen([yarn, walk, validated("band", [0.91, 0.9], [0.5] * 3, hits)])[0] == "walk"
    sure = validated("band", [0.88, 0.92], [0.5] * 3, hits)
    assert chosen([yarn, walk, sure])[0] == "band"
    # The answers' noise counts beside the text's: 0.05 in all, with errors of 0.04 and 0.04.
    unsure = validated("band", [0.89, 0.91], [0.5, 0.5 - 0.0693, 0.5 + 0.0693], hits)
    assert chosen([yarn, walk, unsure])[0] == "walk"
    # Gains of both kinds add up: neither 0.03 ± 0.04 nor 0.03 ± 0.035 is sure alone, 0.06 ± 0.053 is.
    both = validated("band", [0.91, 0.93], [0.47, 0.47 - 0.0606, 0.47 + 0.0606], hits)
    assert chosen([yarn, walk, both])[0] == "band"
    only = validated("band", [0.91, 0.97], [0.5] * 3, hits)
    assert chosen([yarn, walk, only])[0] == "walk"
