"""The run folder of an evaluation, opened by the main process while the others wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.processes import Processes
from ropewalk.runs import Run, create_run


@contextlib.contextmanager
def main_run(
    processes: Processes, begin: Callable[[], AbstractContextManager[Run]]
) -> Iterator[tuple[Run | None, Path]]:
    """(the run that `begin` opens, on the main process and None elsewhere, its folder)."""
    with contextlib.ExitStack() as stack:
        opened: list[Run] = []

        def enter() -> Path:
            opened.append(stack.enter_context(begin()))
            return opened[0].path

        folder = processes.of_main(enter)
        yield (opened[0] if opened else None), folder


@contextlib.contextmanager
def run_folder(
    kind: str, request: EvalRequest, run: str | Path | None, processes: Processes
) -> Iterator[tuple[Run | None, Path | None]]:
    """`main_run` of an evaluation. Without `run` a comparison gets a folder of its own, an evaluation none."""
    if run is None and kind != "compare":
        yield None, None
        return

    def begin() -> AbstractContextManager[Run]:
        return create_run(kind, request.model_dump(mode="json"), path=run, seed=request.seed, resume=True)

    with main_run(processes, begin) as both:
        yield both


def bound_cells(request: EvalRequest, folder: Path | None, processes: Processes) -> Cells:
    """The finished cells of a run folder, refused where they belong to another request."""
    cells = Cells(folder, rank=processes.rank)
    processes.of_main(lambda: cells.bind(request.settings()))
    return cells
