"""One evaluation over several processes: who does what, and everybody's results in everybody's hands."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ropewalk.errors import RopewalkError

Value = TypeVar("Value")


def join_group(cpu: bool) -> Any:
    """Meet the other processes of the launcher: accelerate's state of this one, whose group ends with the process.

    A gloo group that is still there when the interpreter ends is torn down with its threads running, which now and
    then aborts a process that has done all of its work (exit code 134); with CUDA, torch warns of it.
    """
    from accelerate import PartialState

    state = PartialState(cpu=True) if cpu else PartialState()
    atexit.register(state.destroy_process_group)
    return state


@dataclass(frozen=True)
class Processes:
    """This process's number among `world` (from `accelerate launch` or torchrun); (0, 1) alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: str = "auto") -> Processes:
        """Meet the others where the environment says that there are some."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        state = join_group(device == "cpu")
        return cls(state.process_index, state.num_processes, state.local_process_index)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the result."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """`auto` and `cuda` as this process's own accelerator."""
        if self.world == 1 or wanted not in ("auto", "cuda"):
            return wanted
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else wanted

    def mine(self, number: int) -> bool:
        """Whether piece `number` of the work is this process's."""
        return number % self.world == self.rank

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in order of rank. All processes must come here."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def merged(self, value: Mapping[str, Value]) -> dict[str, Value]:
        """The union of every process's mapping."""
        return {key: item for part in self.gather(dict(value)) for key, item in part.items()}

    def of_main(self, work: Callable[[], Value]) -> Value:
        """What the main process finds, in all of them; what fails there fails everywhere. All must come here."""
        found, failure = None, None
        if self.main:
            try:
                found = work()
            except RopewalkError as error:
                failure = error
        self.agree(failure)
        return self.gather(found)[0]  # type: ignore[return-value]

    def agree(self, failure: RopewalkError | None) -> None:
        """Raise in every process what failed in one, so that none waits for another that is gone."""
        if self.world == 1:
            if failure is not None:
                raise failure
            return
        reported = [None if failure is None else (failure.message, failure.hint)]
        for rank, (found,) in enumerate(self.gather(reported)):
            if found is not None:
                if failure is not None:
                    raise failure
                raise RopewalkError(f"process {rank} failed: {found[0]}", hint=found[1])
