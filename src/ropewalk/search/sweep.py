"""The quick sweep: closed forms at their defaults, their variants, and bands; successive halving on the same rows.

Every candidate is measured on a few rows, the better third on the next few, and so on. What is left at the end has
been compared on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.evaluation.candidates.choose import choose, merged
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import schedule as make_schedule
from ropewalk.methods.build import temperature
from ropewalk.methods.walk import band_profile
from ropewalk.position_maps import AnyMap
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import tuned_schedule
from ropewalk.search.guard import Guard
from ropewalk.search.job import Rung
from ropewalk.search.objective import Terms, Weighed, gains_over, joined, summed
from ropewalk.search.published import published_for
from ropewalk.search.reading import NonFiniteLossError, Reader

# Bands in rotations, fast then slow. On a window of 256 tokens and rope_theta 1e4 the best lies near 4 .. 0.5, on
# longer windows near the published 32 .. 1; a slow end below 1 spares pairs that nearly turned once.
FAST = (32.0, 8.0, 4.0)
SLOW = (1.0, 0.5)
COOLER = 0.5
KEEP = 3
# Share of the rows, then of the candidates that go on, of each round.
ROUNDS = ((0.34, 0.3), (0.67, 0.34), (1.0, 0.0))
# Cheaper inside the window than `walk` and shorter of breath beyond it: at 8 times fits end near it.
MILD_WALK = "walk 1.6"
# Defaults that no early round throws out: a few rows are too few to lose what is known to find answers.
PROTECTED = ("yarn", "mrrope-pro", "llama3", "walk", MILD_WALK)

OnMeasured = Callable[[str, Terms, int, int], None]


@dataclass(frozen=True)
class Measured:
    """A candidate with the last it was measured at."""

    name: str
    schedule: FrequencySchedule | AnyMap
    terms: Terms


def closed_forms(geometry: RopeGeometry, factor: float) -> list[Candidate]:
    """Every closed form that needs no training, with its defaults and the variants that the geometry asks for."""
    return choose("all", geometry, factor)[0]


def bands(geometry: RopeGeometry, factor: float) -> list[Candidate]:
    """Bands in rotations for the forms that have one, temperatures beside the usual, and lists that were published for
    this geometry."""
    made: list[Candidate] = []
    for fast in FAST:
        for slow in SLOW:
            label = f"{fast:g}..{slow:g}"
            made += _formed(
                geometry, factor, f"yarn {label}", "yarn", beta_fast=fast, beta_slow=slow, truncate=False
            )
            made += _formed(geometry, factor, f"mrrope-pro {label}", "mrrope-pro", fast=fast, slow=slow)
    for fast, slow in ((4.0, 0.5), (8.0, 0.5)):
        made += _formed(
            geometry,
            factor,
            f"llama3 {fast:g}..{slow:g}",
            "llama3",
            high_freq_factor=fast,
            low_freq_factor=slow,
        )
    for fast, slow in ((32.0, 1.0), (8.0, 1.0), (4.0, 0.5)):
        profile = band_profile(geometry, fast, slow)
        cooler = tuned_schedule(geometry, factor, profile, 1.0 + COOLER * (temperature(factor) - 1.0))
        made.append(scheduled(f"band {fast:g}..{slow:g}, half the temperature", cooler, variant="band"))
    made += _formed(geometry, factor, MILD_WALK, "walk", power=1.6, heat=0.08)
    for item in published_for(geometry):
        made += _formed(geometry, factor, item.name, "longrope", long_factors=item.at(factor).tolist())
    return made


def _formed(
    geometry: RopeGeometry, factor: float, label: str, method: str, **parameters: Any
) -> list[Candidate]:
    try:
        return [
            scheduled(label, make_schedule(method, geometry, factor=factor, **parameters), variant="band")
        ]
    except RopewalkError:
        # A band that this geometry does not have.
        return []


def candidates(geometry: RopeGeometry, factor: float, *, defaults_only: bool = False) -> list[Candidate]:
    """What a sweep looks at, equal schedules once."""
    found = closed_forms(geometry, factor)
    return found if defaults_only else merged([*found, *bands(geometry, factor)])


def sweep(
    reader: Reader,
    offered: Sequence[Candidate],
    rows: Sequence[Weighed],
    on_measured: OnMeasured | None = None,
) -> list[Measured]:
    """Candidates best first, as far as they came; KEEP of them and the PROTECTED were measured on all rows.

    Rows are taken in order, so they should be shuffled and alternate between text and planted ones. A candidate whose
    loss is not a number is out.
    """
    left = list(offered)
    standing: dict[str, Measured] = {}
    read = 0
    for share, keep in ROUNDS:
        # Rows alternate: one of text and one with an answer at least.
        count = max(2, round(share * len(rows)))
        measured = []
        for number, candidate in enumerate(left):
            subject = candidate.schedule or candidate.plan
            assert subject is not None
            try:
                terms = reader.terms(subject, rows[read:count])
            except NonFiniteLossError:
                continue
            if read:
                terms = joined(standing[candidate.name].terms, terms, rows[:count])
            measured.append(Measured(candidate.name, subject, terms))
            if on_measured is not None:
                on_measured(candidate.name, terms, number + 1, len(left))
        measured.sort(key=lambda item: item.terms.value)
        # Those that fell out in an earlier round stay behind all that went on.
        standing = {item.name: item for item in measured} | {
            name: item for name, item in standing.items() if name not in {one.name for one in measured}
        }
        size = max(KEEP, math.ceil(keep * len(measured)))
        names = [item.name for item in measured[:size]] + [name for name in PROTECTED if name in standing]
        left, read = [candidate for candidate in left if candidate.name in names], count
    if not standing:
        raise RopewalkError("no candidate gives a finite loss", hint="try --dtype float32 and --attn eager")
    return list(standing.values())


def finalists(names: Sequence[str]) -> list[int]:
    """The places, in a sweep's order, of what is measured on validation: the best few and the protected."""
    return [place for place, name in enumerate(names) if place < KEEP or name in PROTECTED]


def best_that_finds(measured: Sequence[Measured], reader: Reader, rung: Rung) -> Measured:
    """The best default, or the lowest J where that is ahead of it by more than its standard error, pair by pair on
    the rung's validation rows; of those that do not surely lose answers of the default that finds most of them.

    Which of five defaults finds most is luck as well, so one answer fewer is none. But loss alone would trade answers
    for text where a default finds more than the best band, and of forty bands the one with the lowest J on a few rows
    owes that to the rows.
    """
    ranked = sorted(measured, key=lambda item: item.terms.value)
    defaults = [item for item in ranked if item.name in PROTECTED]
    if not defaults:
        return ranked[0]
    most = max(defaults, key=lambda item: item.terms.answers)
    guard = Guard(reader, rung.validation, rung.further, most.schedule, most.terms)
    # Lowest first, because further questions may be asked of each.
    best = next(item for item in ranked if not guard.surely_lost(item.schedule, item.terms))
    if best in defaults:
        return best
    rest = (item for item in defaults if item.terms.value >= best.terms.value)
    default = next(item for item in rest if not guard.surely_lost(item.schedule, item.terms))
    gain = summed(gains_over(default.terms, best.terms, rung.validation).values())
    return best if gain.sure else default


def at_factor(start: Candidate | Measured, factor: float) -> FrequencySchedule:
    """The same form at another factor: a method by its name and parameters, a band by its profile."""
    made = start.schedule
    if not isinstance(made, FrequencySchedule):
        raise RopewalkError(f"{start.name} is no schedule", hint="zones are fitted for one target")
    if made.factor == factor:
        return made
    listed = any(isinstance(value, list) for value in made.parameters.values())
    try:
        if made.method == "tuned" or listed or "rope_theta" in made.parameters:
            raise RopewalkError("it has no rule for another factor", hint="")
        settings = {name: value for name, value in made.settings.items() if name != "attention_factor"}
        return make_schedule(made.method, made.geometry, factor=factor, **settings)
    except RopewalkError:
        heat = (made.attention_factor - 1.0) / math.log(made.factor)
        profile = made.profile[: made.geometry.num_rotating]
        return replace(
            tuned_schedule(made.geometry, factor, profile, 1.0 + heat * math.log(factor)), notes=made.notes
        )
