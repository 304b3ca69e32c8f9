"""Training under two zones: what a recipe says of them, and the position map that it asks for."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from ropewalk.position_maps import AnyMap, map_for
from ropewalk.training.vocabulary import Length, Positive, Strict, Tokens


class ZonesOptions(Strict):
    """Train under two zones (docs/attention.md): distances up to `near` true, farther ones under a far schedule.

    `target` is the length that far distances are kept for, at least that of the longest rows. `file` is a map that
    `ropewalk tune --search zones` wrote, in the place of everything else.
    """

    target: Length | None = None
    near: Tokens | None = None
    far_method: str = "linear"
    discount: float = 0.0
    log_discount: float = 1.0
    far_logits: Positive = 1.0
    sharpness: float = 0.0
    file: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.target is None) == (self.file is None):
            raise ValueError("zones takes either target or file")
        return self


def zones_of(model: Any, options: ZonesOptions) -> AnyMap:
    """The map that a recipe asks for, for this model."""
    from ropewalk.models.facts import read_facts
    from ropewalk.models.stretch import map_for_model

    facts = read_facts(model.config.to_dict())
    if options.file is not None:
        return map_for_model(options.file, facts).plan
    assert options.target is not None
    given = options.model_dump(exclude={"target", "file"}, exclude_none=True)
    return map_for("zones", facts.geometry, options.target, **given)
