"""CMA-ES over five numbers: a band in rotations, its steepness and plateau, and the temperature. By optuna's sampler.

Several workers on one storage share the search: each asks for points and tells what they came to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError, one_line
from ropewalk.geometry import RopeGeometry
from ropewalk.methods.walk import band_profile
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import tuned_schedule
from ropewalk.search.objective import Terms, Weighed
from ropewalk.search.reading import NonFiniteLossError, Reader

# Natural logarithms of rotations for `fast`, and of fast/slow for `width`; exponent; plateau; c of 1 + c ln s.
SPACE = {
    "fast": (0.0, math.log(64.0)),
    "width": (math.log(1.5), math.log(256.0)),
    "power": (0.3, 3.0),
    "plateau": (0.7, 1.3),
    "heat": (0.0, 0.2),
}
# The published yarn, in these numbers: where the search begins.
START = {"fast": math.log(32.0), "width": math.log(32.0), "power": 1.0, "plateau": 1.0, "heat": 0.1}


@dataclass(frozen=True)
class Point:
    """The five numbers of a schedule and what it came to."""

    numbers: Mapping[str, float]
    value: float


@dataclass(frozen=True)
class Study:
    """Where trials are kept: a name in optuna's storage (a URL, an object, or None for this process alone)."""

    name: str
    storage: Any
    seed: int


def schedule_at(geometry: RopeGeometry, factor: float, numbers: Mapping[str, float]) -> FrequencySchedule:
    """The schedule of a point."""
    fast = math.exp(numbers["fast"])
    slow = fast / math.exp(numbers["width"])
    profile = band_profile(geometry, fast, slow, numbers["power"], numbers["plateau"])
    return tuned_schedule(geometry, factor, profile, 1.0 + numbers["heat"] * math.log(factor))


def search_cma(
    reader: Reader,
    factor: float,
    rows: Sequence[Weighed],
    where: Study,
    enough: Callable[[int], bool],
    on_trial: Callable[[int, Terms | None], None],
) -> list[Point]:
    """Points best first. `enough` is asked with the number of trials that are done, by whatever worker."""
    optuna = _optuna()
    done_with = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    geometry = reader.rotation.geometry
    sampler = optuna.samplers.CmaEsSampler(seed=where.seed)
    study = optuna.create_study(
        study_name=where.name,
        storage=where.storage,
        sampler=sampler,
        direction="minimize",
        load_if_exists=True,
    )
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(START))
    # Counted in the storage: the trials of other workers use up the budget too.
    while not enough(done := len(study.get_trials(deepcopy=False, states=done_with))):
        trial = study.ask({key: optuna.distributions.FloatDistribution(*ends) for key, ends in SPACE.items()})
        try:
            terms = reader.terms(schedule_at(geometry, factor, trial.params), rows)
        except NonFiniteLossError:
            # Failed, it counts as done and stays out of what the sampler learns from.
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            on_trial(done + 1, None)
            continue
        study.tell(trial, terms.value)
        on_trial(done + 1, terms)
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    points = [Point(dict(trial.params), float(trial.value)) for trial in finished]
    return sorted(points, key=lambda point: point.value)


def _optuna() -> Any:
    try:
        import cmaes  # noqa: F401
        import optuna
    except ImportError as error:
        raise RopewalkError(
            f"--search cma needs optuna and cmaes ({one_line(error)})",
            hint="pip install 'ropewalk[search]', or use --search fit",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
