"""`evaluate`: loss by length, retrieval, controls, effective length and health of a model or a served endpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, renamed
from ropewalk.evaluation.request import EvalRequest, make_request
from ropewalk.evaluation.result import EvalResult
from ropewalk.evaluation.work.watch import OnStep, Watcher


@renamed(run="output")
def evaluate(
    model: Any,
    *,
    lengths: Sequence[int] | str = (),
    text: str | Path | None = None,
    tasks: Sequence[str] | str = ("ppl", "passkey"),
    tokenizer: Any | None = None,
    base: Any | None = None,
    output: str | Path | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> EvalResult:
    """Measure a model (folder, Hub id, `hemp`, a loaded model with its `tokenizer`) or the server at a URL.

    The keywords are those of `EvalRequest`; `ropewalk eval --help` explains each. With `output` the result is written
    there, finished cells are kept when interrupted, and the same call completes the rest. `base` is the unmodified
    model of the controls. `on_step(done, total, what)` hears of progress in tokens.
    """
    loaded = None if isinstance(model, str | Path) else model
    if loaded is not None and tokenizer is None:
        raise UsageError("a loaded model comes without its tokenizer", hint="pass tokenizer=")
    name = str(model) if loaded is None else _name_of(loaded)
    settings |= {"text": None if text is None else str(text), "tasks": tasks, "lengths": lengths}
    if isinstance(base, str | Path):
        settings["base"] = str(base)
    if isinstance(tokenizer, str | Path):
        settings["tokenizer"], tokenizer = str(tokenizer), None
    request = make_request(name, **settings)
    parts = {"model": loaded, "tokenizer": tokenizer, "base": None if isinstance(base, str | Path) else base}
    return _in_run(request, parts, output, Watcher(on_step))


def _name_of(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def _in_run(
    request: EvalRequest, parts: dict[str, Any], run: str | Path | None, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.work.cells import Cells
    from ropewalk.evaluation.work.processes import Processes

    processes = Processes.join(request.device)
    started = time.monotonic()
    with _run_folder(request, run, processes) as writing:
        folder = None if run is None else Path(run)
        cells = Cells(folder, rank=processes.rank)
        failure: RopewalkError | None = None
        if processes.main:
            try:
                cells.bind(request.settings())
            except RopewalkError as error:
                failure = error
        processes.agree(failure)
        measure = _measure_served if _is_url(request.model) else _measure_local
        result = measure(request, parts, cells, processes, watcher)
        seconds = round(time.monotonic() - started, 3)
        result = result.model_copy(
            update={
                "run": None if run is None else str(run),
                "seconds": seconds,
                "processes": processes.world,
            }
        )
        if writing is not None:
            writing.write_json("result.json", result.to_json())
    return result


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


@contextlib.contextmanager
def _run_folder(request: EvalRequest, run: str | Path | None, processes: Any) -> Iterator[Any]:
    """The run on the main process, nothing elsewhere; the others start once the folder is there."""
    from ropewalk.runs import create_run

    if run is None:
        yield None
        return
    if not processes.main:
        processes.agree(None)
        yield None
        return
    opened = create_run("eval", request.model_dump(mode="json"), path=run, seed=request.seed, resume=True)
    with contextlib.ExitStack() as stack:
        try:
            writing = stack.enter_context(opened)
        except RopewalkError as error:
            processes.agree(error)
            raise
        processes.agree(None)
        yield writing


def _measure_local(
    request: EvalRequest, parts: dict[str, Any], cells: Any, processes: Any, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.local import Local
    from ropewalk.models.load import quiet_transformers

    with quiet_transformers() if parts["model"] is None else nullcontext():
        return Local(request, parts, cells, processes, watcher).measure()


def _measure_served(
    request: EvalRequest, parts: dict[str, Any], cells: Any, processes: Any, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.served.remote import measure_served

    if processes.world > 1:
        raise UsageError(
            "a served model is asked by one process", hint="leave out accelerate launch; use --workers"
        )
    return measure_served(request, parts["tokenizer"], cells, watcher)
