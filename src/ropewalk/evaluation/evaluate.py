"""`evaluate`: loss by length, retrieval, controls, effective length and health of a model or a served endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError, renamed
from ropewalk.evaluation.request import EvalRequest, make_request
from ropewalk.evaluation.result import EvalResult
from ropewalk.evaluation.work.watch import OnStep, Watcher


@renamed(run="output")
def evaluate(
    model: Any,
    *,
    lengths: Sequence[int] | str = (),
    text: str | Path | None = None,
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
    settings |= {"text": None if text is None else str(text), "lengths": lengths}
    if isinstance(base, str | Path):
        settings["base"] = str(base)
    name, parts = given_parts(model, tokenizer, settings)
    request = make_request(EvalRequest, name, **settings)
    parts["base"] = None if isinstance(base, str | Path) else base
    return _in_run(request, parts, output, Watcher(on_step))


def given_parts(model: Any, tokenizer: Any | None, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name, and what was given loaded; a tokenizer that is a place goes into the settings."""
    loaded = None if isinstance(model, str | Path) else model
    if loaded is not None and tokenizer is None:
        raise UsageError("a loaded model comes without its tokenizer", hint="pass tokenizer=")
    name = str(model)
    if loaded is not None:
        name = str(getattr(loaded.config, "_name_or_path", "") or type(loaded).__name__)
    if isinstance(tokenizer, str | Path):
        settings["tokenizer"], tokenizer = str(tokenizer), None
    return name, {"model": loaded, "tokenizer": tokenizer}


def _in_run(
    request: EvalRequest, parts: dict[str, Any], run: str | Path | None, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.work.folder import bound_cells, run_folder
    from ropewalk.evaluation.work.processes import Processes

    processes = Processes.join(request.device)
    started = time.monotonic()
    with run_folder("eval", request, run, processes) as (writing, folder):
        cells = bound_cells(request, folder, processes)
        served = request.model.startswith(("http://", "https://"))
        measure = _measure_served if served else _measure_local
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


def _measure_local(
    request: EvalRequest, parts: dict[str, Any], cells: Any, processes: Any, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.local import Local
    from ropewalk.evaluation.verdict.one import One
    from ropewalk.models.load import quiet_transformers

    with quiet_transformers() if parts["model"] is None else nullcontext():
        return One(Local(request, parts, cells, processes, watcher), parts["base"]).measure()


def _measure_served(
    request: EvalRequest, parts: dict[str, Any], cells: Any, processes: Any, watcher: Watcher
) -> EvalResult:
    from ropewalk.evaluation.served.remote import measure_served

    if processes.world > 1:
        raise UsageError(
            "a served model is asked by one process", hint="leave out accelerate launch; use --workers"
        )
    return measure_served(request, parts["tokenizer"], cells, watcher)
