"""What a search was asked for, and the run folder in which it may go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, UsageError
from ropewalk.search.budget import Budget
from ropewalk.search.objective import Objective
from ropewalk.search.rows import Amounts


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
            "objective": self.objective.to_json(),
        }


def opened(request: Request, output: str | Path | None) -> Any:
    """A new run folder, or an unfinished one of the same request."""
    from ropewalk.runs import create_run
    from ropewalk.runs.documents import read_document

    asked_before = None if output is None else Path(output) / "request.json"
    # An empty file is the claim of a process that was killed before it wrote a word: nothing was asked.
    if asked_before is not None and asked_before.is_file() and asked_before.stat().st_size:
        before = read_document(asked_before)
        before = before.get("request") if isinstance(before, dict) else None
        if not isinstance(before, dict):
            raise DamagedError(f"{output}/request.json has no request", hint="choose another output")
        asked = request.to_json()
        changed = sorted(key for key in asked if before.get(key) != asked[key])
        if changed:
            raise UsageError(
                f"the run in {output} was asked for something else ({', '.join(changed)} differ)",
                hint="repeat the first call to complete it, or choose another output",
            )
    return create_run("tune", request.to_json(), path=output, seed=request.seed, resume=True)
