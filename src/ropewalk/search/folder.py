"""The run folder of a search in every process: the main one writes, and all of them go by what it reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.errors import DamagedError, UsageError
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.folder import main_run
from ropewalk.evaluation.work.processes import Processes
from ropewalk.files import as_path
from ropewalk.runs import Run, create_run
from ropewalk.runs.documents import read_document
from ropewalk.search.request import Request

Done = TypeVar("Done")


class Folder:
    """A run folder; without a run of its own (in every process but the main one) it only reads along."""

    def __init__(self, run: Run | None, path: Path, processes: Processes) -> None:
        self.run, self.processes = run, processes
        self.path = path
        # The main process's word in all: only it knows the folder as it was.
        self.resumed = processes.of_main(lambda: run is not None and run.resumed)

    def write_json(self, name: str, document: Any) -> None:
        """One document, written whole, by the main process."""
        if self.run is not None:
            self.run.write_json(name, document)

    def write_text(self, name: str, content: str) -> None:
        """A text file, written whole, by the main process."""
        if self.run is not None:
            self.run.write_text(name, content)

    def remove(self, name: str) -> None:
        """Take back a document of an earlier call, where there is one."""
        if self.run is not None:
            self.run.file(name).unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """A document that an interrupted call left in the run, None where there is none."""
        return self._of_main(lambda run: self._left(run, name))

    def bind(self, hashes: dict[str, str]) -> None:
        """Remember what the names stood for, or refuse to go on after a text or weights changed in place."""
        self._of_main(lambda run: Cells(run.path).bind_contents(hashes))

    def _left(self, run: Run, name: str) -> dict[str, Any] | None:
        path = run.file(name)
        if not run.resumed or not path.is_file():
            return None
        document = read_document(path)
        if not isinstance(document, dict):
            raise DamagedError(f"{path} is not what tune wrote", hint="delete the run and start it again")
        return document

    def _of_main(self, work: Callable[[Run], Done]) -> Done:
        def found() -> Done:
            assert self.run is not None
            return work(self.run)

        return self.processes.of_main(found)


@contextlib.contextmanager
def opened(request: Request, output: str | Path | None, processes: Processes) -> Iterator[Folder]:
    """A new run folder, or an unfinished one of the same request, in every process."""

    def begin() -> AbstractContextManager[Run]:
        _same_request(request, output)
        return create_run("tune", request.to_json(), path=output, seed=request.seed, resume=True)

    with main_run(processes, begin) as (run, path):
        yield Folder(run, path, processes)


def _same_request(request: Request, output: str | Path | None) -> None:
    # An empty file is the claim of a process that was killed before it wrote a word: nothing was asked.
    if (
        output is None
        or not (path := as_path(output, "output") / "request.json").is_file()
        or not path.stat().st_size
    ):
        return
    before = read_document(path)
    before = before.get("request") if isinstance(before, dict) else None
    if not isinstance(before, dict):
        raise DamagedError(f"{path} has no request", hint="choose another output")
    asked = request.to_json()
    changed = sorted(key for key in asked if before.get(key) != asked[key])
    if changed:
        raise UsageError(
            f"the run in {output} was asked for something else ({', '.join(changed)} differ)",
            hint="repeat the first call to complete it, or choose another output",
        )
