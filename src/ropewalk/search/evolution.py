"""LongRoPE's evolutionary search (arXiv:2402.13753) with its published settings: factor lists and kept first tokens.

An individual is one factor a pair, lambda_i = theta_i / theta'_i on a grid of 0.01 between 1 and 1.25 s, non-decreasing
over the pairs, and the number of first tokens that keep the model's own rotation. The first population holds linear,
ntk and yarn, lists that were published for this geometry, and mutations of them; in each iteration the best half are
parents of mutations and crossovers. Fitness is the perplexity of a few texts at the target, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.methods import schedule as make_schedule
from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import tuned_schedule
from ropewalk.search.published import published_for
from ropewalk.search.reading import NonFiniteLossError, Reader
from ropewalk.search.rows import Row

KEPT_FIRST = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
GRID = 0.01
BEYOND = 1.25
SEEDS = ("linear", "ntk", "yarn")


@dataclass(frozen=True)
class EvolutionSettings:
    """As published, and the seed of every draw."""

    population: int = 64
    mutations: int = 16
    crossovers: int = 16
    parents: int = 32
    iterations: int = 40
    probability: float = 0.3
    texts: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Individual:
    """A factor list, the kept first tokens, and the mean loss it came to."""

    factors: tuple[float, ...]
    kept_first: int
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For going on after an interruption."""
        return {"factors": list(self.factors), "kept_first": self.kept_first, "loss": self.loss}


@dataclass
class Population:
    """Where a search stands after an iteration."""

    individuals: list[Individual]
    iteration: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> Individual:
        """The one with the lowest loss so far."""
        return min(self.individuals, key=lambda item: math.inf if item.loss is None else item.loss)

    def to_json(self) -> dict[str, Any]:
        """One document."""
        return {
            "individuals": [item.to_json() for item in self.individuals],
            "iteration": self.iteration,
            "curve": self.curve,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Population:
        """What `to_json` wrote."""
        people = [
            Individual(tuple(row["factors"]), int(row["kept_first"]), row["loss"])
            for row in document["individuals"]
        ]
        return cls(people, int(document["iteration"]), list(document["curve"]))


Keep = Callable[[Population], None]


def evolve(
    reader: Reader,
    texts: Sequence[Row],
    factor: float,
    settings: EvolutionSettings,
    keep: Keep,
    begun: Population | None = None,
    enough: Callable[[int], bool] = lambda iteration: False,
) -> Population:
    """Search until the iterations are done or `enough`; `begun` is an earlier call's population."""
    geometry, rows = reader.rotation.geometry, list(texts[: settings.texts])
    population = begun
    if population is None:
        rng = np.random.default_rng([settings.seed, 0])
        first = _first(geometry, factor, settings, rng)
        population = Population([_measured(reader, rows, factor, item) for item in first])
        _note(population, reader, rows)
        keep(population)
    while population.iteration < settings.iterations and not enough(population.iteration):
        number = population.iteration + 1
        # One generator an iteration: a search that goes on draws what it would have drawn.
        rng = np.random.default_rng([settings.seed, number])
        ranked = sorted(population.individuals, key=lambda item: math.inf if item.loss is None else item.loss)
        parents = ranked[: settings.parents]
        children = [
            mutated(_pick(parents, rng), factor, settings.probability, rng) for _ in range(settings.mutations)
        ]
        children += [
            crossed(_pick(parents, rng), _pick(parents, rng), rng) for _ in range(settings.crossovers)
        ]
        born = [_measured(reader, rows, factor, item) for item in children]
        population.individuals, population.iteration = parents + born, number
        _note(population, reader, rows)
        keep(population)
    return population


def _pick(parents: Sequence[Individual], rng: np.random.Generator) -> Individual:
    return parents[int(rng.integers(len(parents)))]


def _note(population: Population, reader: Reader, rows: Sequence[Row]) -> None:
    loss = population.best.loss
    population.curve.append(
        {
            "iteration": population.iteration,
            "loss": math.inf if loss is None else loss,
            "forward_equivalents": reader.tokens / rows[0].length,
        }
    )


def schedule_of(geometry: RopeGeometry, factor: float, individual: Individual) -> FrequencySchedule:
    """An individual's frequencies, with LongRoPE's attention factor; its kept tokens have no place in a schedule."""
    stretch = np.asarray(individual.factors, dtype=np.float64)
    attention = longrope_attention_factor(factor, geometry.original_length)
    return tuned_schedule(
        geometry, factor, np.log(stretch) / math.log(factor), attention, {"kept_first": individual.kept_first}
    )


def _measured(reader: Reader, rows: Sequence[Row], factor: float, item: Individual) -> Individual:
    made = schedule_of(reader.rotation.geometry, factor, item)
    try:
        losses, _ = reader.read(made, [row.ids for row in rows], item.kept_first)
    except NonFiniteLossError:
        return Individual(item.factors, item.kept_first, None)
    # Nothing predicts the first token.
    mean = float(np.mean([loss[1:].mean() for loss in losses]))
    return Individual(item.factors, item.kept_first, mean)


def _first(
    geometry: RopeGeometry,
    factor: float,
    settings: EvolutionSettings,
    rng: np.random.Generator,
) -> list[Individual]:
    lists = [make_schedule(name, geometry, factor=factor).stretch[: geometry.num_rotating] for name in SEEDS]
    lists += [item.at(factor) for item in published_for(geometry)]
    people = [Individual(_on_grid(values, factor), 0) for values in lists]
    originals = list(people)
    # From the seeds alone, not from one another: the first population stays near what is known to work.
    while len(people) < settings.population:
        people.append(mutated(_pick(originals, rng), factor, settings.probability, rng))
    return people


def _on_grid(values: FloatArray, factor: float) -> tuple[float, ...]:
    clipped = np.clip(np.round(values / GRID) * GRID, 1.0, BEYOND * factor)
    return tuple(round(float(value), 4) for value in np.maximum.accumulate(clipped))


def mutated(parent: Individual, factor: float, probability: float, rng: np.random.Generator) -> Individual:
    """Each factor drawn anew with a probability, from what its neighbours leave free; the kept tokens likewise."""
    values = list(parent.factors)
    for number in range(len(values)):
        if rng.random() < probability:
            least = values[number - 1] if number else 1.0
            most = values[number + 1] if number + 1 < len(values) else BEYOND * factor
            values[number] = least + (most - least) * rng.random()
    kept = parent.kept_first
    if rng.random() < probability:
        kept = KEPT_FIRST[int(rng.integers(len(KEPT_FIRST)))]
    return Individual(_on_grid(np.asarray(values), factor), kept)


def crossed(one: Individual, other: Individual, rng: np.random.Generator) -> Individual:
    """Each factor from one of two parents; where that falls, the larger one before it holds."""
    choose = rng.random(len(one.factors)) < 0.5
    values = np.where(choose, one.factors, other.factors)
    kept = one.kept_first if rng.random() < 0.5 else other.kept_first
    return Individual(tuple(float(value) for value in np.maximum.accumulate(values)), kept)
