"""The one answer to "what will this program compute?": a program's ways of writing joined with the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.writing.carrier import carry
from ropewalk.runtimes.base import Job, Runtime, Way
from ropewalk.runtimes.known import OUTCOMES, Evidence, Fact
from ropewalk.runtimes.registry import facts_about, find_runtime, runtimes
from ropewalk.schedule import FrequencySchedule

_RANK = {outcome: number for number, outcome in enumerate(OUTCOMES)}
_STRENGTH = {"unknown": 0, "source": 1, "measured": 2}


@dataclass(frozen=True)
class Answer:
    """What one program makes of one schedule on one architecture.

    `outcome` is exact, approximate, unknown, ignored or refused; `way` how it is written; `facts` what that rests on.
    """

    runtime: str
    architecture: str
    outcome: str
    way: Way | None
    facts: tuple[Fact, ...]
    reason: str | None

    @property
    def exact(self) -> bool:
        """Whether the program is known to compute this very schedule."""
        return self.outcome == "exact"

    @property
    def native(self) -> bool:
        """Exact, and by a type of the program's own rather than by lists of factors."""
        return self.exact and self.way is not None and self.way.native

    @property
    def known_by(self) -> Evidence | None:
        """The weakest evidence that the outcome rests on; of measurements the largest difference."""
        if not self.facts:
            return None
        return min(
            (fact.known_by for fact in self.facts),
            key=lambda known: (_STRENGTH[known.kind], -(known.difference or 0.0)),
        )

    def describe(self) -> str:
        """One line for people: the outcome, why, and how it is known."""
        text = self.outcome if self.reason is None else f"{self.outcome}: {self.reason}"
        known = self.known_by
        return text if known is None or known.kind == "unknown" else f"{text} [{known.describe()}]"

    def to_json(self) -> dict[str, Any]:
        """For every document that holds an answer."""
        known = self.known_by
        return {
            "outcome": self.outcome,
            "exact": self.exact,
            "native": self.native,
            "way": None if self.way is None else self.way.name,
            "forms": [] if self.way is None else list(self.way.forms),
            "reason": self.reason,
            "known_by": None if known is None else known.to_json(),
            "notes": [] if self.way is None else list(self.way.notes),
        }


def job_for(
    source: ModelFacts | Mapping[str, Any],
    schedule: FrequencySchedule,
    *,
    target_length: int | None = None,
    layers: str = "full",
) -> Job:
    """A schedule on its way into programs: written into the model's configuration where that can hold it.

    UsageError for what can never be meant (another model's schedule, a window of no tokens).
    """
    facts = source if isinstance(source, ModelFacts) else read_facts(source)
    target = schedule.target_length if target_length is None else target_length
    try:
        carried = carry(facts.config, schedule, target_length=target, layers=layers)
    # A RopewalkError too, but never the architecture's doing.
    except UsageError:
        raise
    except RopewalkError as error:
        return Job(facts, schedule, target, None, error.message, layers)
    return Job(facts, schedule, target, carried, None, layers)


def answer(runtime: Runtime | str, job: Job) -> Answer:
    """What one program makes of a job: its best way, as good as the worst fact that this way needs."""
    program = find_runtime(runtime) if isinstance(runtime, str) else runtime
    candidates = [judge(program, job.architecture, way) for way in program.ways(job)]
    if not candidates:
        return Answer(program.name, job.architecture, "refused", None, (), program.obstacle(job))
    # Of ways that are equally good the first counts, which is the one that the program prefers.
    return min(candidates, key=lambda found: _RANK[found.outcome])


def answers(job: Job) -> dict[str, Answer]:
    """What every program makes of a job, by the program's name."""
    return {name: answer(program, job) for name, program in runtimes().items()}


def judge(program: Runtime, architecture: str, way: Way) -> Answer:
    """What is known about one way of writing on one architecture."""
    known = facts_about(program)
    facts = tuple(known.of(architecture, form) for form in way.forms)
    outcome = max((fact.outcome for fact in facts), key=_RANK.__getitem__)
    reason = None
    if outcome == "unknown":
        missing = ", ".join(form for form, fact in zip(way.forms, facts) if fact.outcome == "unknown")
        said = [fact.difference for fact in facts if fact.outcome == "unknown" and fact.difference]
        reason = (
            "; ".join(dict.fromkeys(said))
            if said
            else f"nobody ran or read {missing} on {architecture} there"
        )
    elif outcome != "exact":
        said = [fact.difference or outcome for fact in facts if fact.outcome == outcome]
        reason = "; ".join(dict.fromkeys(said))
    return Answer(program.name, architecture, outcome, way, facts, reason)
