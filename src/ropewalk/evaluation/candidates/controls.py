"""The lines that everything is held against: the unscaled model on the same weights, whole and on cropped context."""

from __future__ import annotations

from dataclasses import replace

from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.methods import schedule
from ropewalk.models.facts import ModelFacts

UNMODIFIED, CROPPED, AS_IS, CROPPED_AS_IS = "unmodified", "cropped", "as is", "cropped, as is"
# Another model that chooses the key tokens, by its whole and its cropped reading.
REFERENCES = ("reference", "cropped reference")


def is_scaled(facts: ModelFacts) -> bool:
    """Whether the configuration stretches any layer type already."""
    return any(rope.is_scaled for rope in facts.ropes.values())


def unmodified(facts: ModelFacts) -> Candidate:
    """The model without whatever scaling its configuration has, reading everything.

    The same weights without a trained-in scaling are not a model that anybody would use: beside it stands the cropped
    model as it is, and the better of the two cropped readers is the one to beat.
    """
    none = schedule("none", facts.geometry, factor=1.0)
    if is_scaled(facts):
        return replace(scheduled(UNMODIFIED, none), kind="control", variant="control")
    # Nothing to take off: the schedule is there for the tables, and the model runs as it is, bit for bit.
    return Candidate(UNMODIFIED, "control", schedule=none, variant="control")


def controls(facts: ModelFacts) -> list[Candidate]:
    """Unmodified and cropped; for a model that is stretched already its own cropped reading as well."""
    plain = unmodified(facts)
    found = [plain, replace(plain, name=CROPPED, cropped=True)]
    if is_scaled(facts):
        found.append(Candidate(CROPPED_AS_IS, "control", cropped=True, variant="control"))
    return found


def as_is(facts: ModelFacts) -> list[Candidate]:
    """The present schedule as a row, where the model has one."""
    if not is_scaled(facts):
        return []
    return [Candidate(AS_IS, "schedule", schedule=facts.rope.schedule, variant="as is")]
