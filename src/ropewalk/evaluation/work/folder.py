"""The run folder of an evaluation, opened by the main process while the others wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.processes import Processes


@contextlib.contextmanager
def run_folder(
    kind: str, request: EvalRequest, run: str | Path | None, processes: Processes
) -> Iterator[tuple[Any, Path | None]]:
    """(the open run on the main process and None elsewhere, its folder). Without `run` a comparison gets a folder of
    its own, an evaluation none."""
    from ropewalk.runs import create_run

    if run is None and kind != "compare":
        yield None, None
        return
    with contextlib.ExitStack() as stack:
        writing, folder, failure = None, None, None
        if processes.main:
            opened = create_run(
                kind, request.model_dump(mode="json"), path=run, seed=request.seed, resume=True
            )
            try:
                writing = stack.enter_context(opened)
                folder = Path(writing.path)
            except RopewalkError as error:
                failure = error
        processes.agree(failure)
        yield writing, processes.gather(folder)[0]


def bound_cells(request: EvalRequest, folder: Path | None, processes: Processes) -> Cells:
    """The finished cells of a run folder, refused where they belong to another request."""
    cells = Cells(folder, rank=processes.rank)
    failure: RopewalkError | None = None
    if processes.main:
        try:
            cells.bind(request.settings())
        except RopewalkError as error:
            failure = error
    processes.agree(failure)
    return cells
