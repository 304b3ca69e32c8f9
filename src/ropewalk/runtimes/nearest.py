"""What to do instead where a program cannot carry a schedule exactly: another program, or the nearest other method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropewalk.errors import RopewalkError
from ropewalk.methods import methods, schedule
from ropewalk.runtimes.answer import answer, answers, job_for
from ropewalk.runtimes.base import Job, Runtime
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Nearest:
    """The programs that carry the schedule itself, and the method that comes nearest in the program at hand."""

    programs: tuple[str, ...]
    method: str | None
    distance: float

    def describe(self) -> str:
        """As a way out, in one sentence."""
        ways = []
        if self.method is not None:
            away = f"{100 * self.distance:.2g} % away in frequency (root mean square)"
            ways.append(f"--method {self.method} is exact there ({away})")
        if self.programs:
            ways.append(f"exact with this schedule: {', '.join(self.programs)}")
        return (
            "; ".join(ways) or "apply it in memory (ropewalk.apply), or measure it: ropewalk verify --runtime"
        )


def nearest(job: Job, program: Runtime) -> Nearest:
    """The nearest exact choices for a schedule that `program` does not carry exactly."""
    others = tuple(name for name, found in answers(job).items() if found.exact and name != program.name)
    best: tuple[float, str] | None = None
    for name, known in methods().items():
        # A way out is a method that works at once, and one that stretches.
        if known.needs_training or known.contrib or name == "none":
            continue
        try:
            made = schedule(name, job.schedule.geometry, factor=job.schedule.factor)
            other = job_for(job.facts, made, target_length=job.target_length, layers=job.layers)
        except RopewalkError:
            continue
        if answer(program, other).exact:
            away = distance(job.schedule, made)
            # Of methods that make the same frequencies the first one listed is meant, whatever the rounding.
            if best is None or away < best[0] - 1e-9:
                best = (away, name)
    return Nearest(others, None if best is None else best[1], 0.0 if best is None else best[0])


def distance(one: FrequencySchedule, other: FrequencySchedule) -> float:
    """Root mean square of the log ratios of frequencies, over pairs that turn in both, and of the attention factors."""
    # A pair that stands still has no logarithm.
    moving = (one.inv_freq > 0) & (other.inv_freq > 0)
    ratios = np.log(one.inv_freq[moving] / other.inv_freq[moving])
    temperature = math.log(one.attention_factor / other.attention_factor)
    return float(np.sqrt((np.sum(ratios**2) + temperature**2) / (ratios.size + 1)))
