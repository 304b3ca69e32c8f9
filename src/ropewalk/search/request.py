"""What a search was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ropewalk.search.budget import Budget
from ropewalk.search.objective import Objective
from ropewalk.search.rows import Amounts

# Searches for a map, which stands in a file of that name beside the best single table.
MAP_SEARCHES = ("zones", "layers")


@dataclass(frozen=True)
class Request:
    """Everything that makes two searches the same."""

    model: str
    target_length: int
    factors: tuple[float, ...]
    text: str | None
    search: str
    budget: Budget
    tasks: tuple[str, ...]
    seed: int
    dtype: str
    start: str | None
    storage: str | None = None
    temperatures: str = "one"
    objective: Objective = field(default_factory=Objective)
    amounts: Amounts = field(default_factory=Amounts)

    def to_json(self) -> dict[str, Any]:
        """For the run folder. The budget is left out: a search may go on with a larger one."""
        return {
            "model": self.model,
            "target_length": self.target_length,
            "factors": list(self.factors),
            "text": self.text,
            "search": self.search,
            "tasks": list(self.tasks),
            "seed": self.seed,
            "dtype": self.dtype,
            "start": self.start,
            "temperatures": self.temperatures,
            "objective": self.objective.to_json(),
        }
