"""`train`: a recipe in, a run folder with checkpoints out; resumable after any kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.files import as_path, write_json
from ropewalk.runs import create_run, open_run
from ropewalk.runs.store import MANIFEST, REQUEST, Run, holds_nothing
from ropewalk.training.progress import Progress
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.settings import CHECKPOINTS, RUN, Evaluate, Settings
from ropewalk.training.state.checkpoint import list_checkpoints
from ropewalk.training.state.identity import recipe_changes, recipe_of, refuse_changes


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left: the run folder, its checkpoints oldest first, and the facts of the last."""

    run: Path
    checkpoints: list[Path]
    final: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document of `train --json`."""
        return {
            "run": str(self.run),
            "checkpoints": [str(path) for path in self.checkpoints],
            "final": self.final,
        }


def train(
    recipe: Recipe | dict[str, Any] | str | Path | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    evaluate: Evaluate | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> TrainResult:
    """Train as a recipe says (a `Recipe`, a dictionary, a YAML file, a bundled name) and return what was made.

    `output` is the run folder (by default a new one in $ROPEWALK_RUNS, or ./runs). With `resume` the run in `output`
    goes on from its newest whole checkpoint, bit for bit as if it had never stopped; `recipe` may then be left out. A
    recipe or data that differ from the run's are refused unless `allow_changes`. `evaluate(model, step)` is called
    with every evaluation of the recipe and returns numbers for the metrics.
    """
    from ropewalk.models.load import pick_device
    from ropewalk.training.engine import start_engine

    progress = Progress(quiet=quiet)
    folder = None if output is None else as_path(output, "output")
    if resume and folder is None:
        raise UsageError("resume needs the run folder", hint="give it with --output")
    if recipe is None:
        if folder is None or not resume:
            raise UsageError(
                "no recipe", hint="give a recipe, or the run folder of an earlier one with --resume"
            )
        recipe = recipe_of(folder)
    checked = read_recipe(recipe)
    if folder is not None:
        # Before the processes meet in `start_engine`: the folder is made after that, so none finds it taken by another.
        finished = _look(folder, checked, resume, allow_changes)
        if finished is not None:
            progress.warn(f"{folder} is already finished")
            return finished
    settings = Settings(checked, resume, allow_changes, evaluate, pick_device(device).type, progress)
    engine = start_engine(checked.engine, settings.device)
    if not engine.is_main:
        progress.silence()
    opened: list[Run] = []
    with contextlib.ExitStack() as stack:

        def make_folder() -> Path:
            asked = checked.to_json()
            before = None if folder is None or not resume else folder / REQUEST
            if before is not None and before.is_file() and before.stat().st_size:
                # A changed recipe is the run's own only once it is known to fit what the run has: see `take_up`.
                asked = recipe_of(before.parent)
            run = create_run("train", {"recipe": asked}, path=folder, seed=checked.seed, resume=resume)
            opened.append(stack.enter_context(run))
            return opened[0].path

        def take_up() -> None:
            opened[0].ask({"recipe": checked.to_json()}, seed=checked.seed)

        path = engine.share(make_folder)
        progress.say(f"run {path}")
        return _run(settings, engine, path, take_up)


def _look(folder: Path, recipe: Recipe, resume: bool, allow_changes: bool) -> TrainResult | None:
    """Refuse a folder that is taken; with `resume`, the result of a run that is already complete."""
    if resume and not folder.is_dir():
        raise RopewalkError(f"{folder} is no training run to resume", hint="start it without --resume")
    if not resume:
        if not holds_nothing(folder):
            raise RopewalkError(
                f"{folder} already holds a run or other files",
                hint="continue it with --resume, or choose another output",
            )
        return None
    if (folder / RUN).is_file() and not allow_changes and not _complete(folder):
        # Before anything is written: a refused resume leaves the folder as it was.
        refuse_changes(recipe_changes(recipe_of(folder), recipe.to_json()))
    if not (folder / MANIFEST).is_file():
        return None
    # What an unfinished run left is checked where it is used: a damaged checkpoint may have a good one before it.
    if not _complete(folder):
        return None
    stored = open_run(folder)
    if stored.kind != "train":
        raise RopewalkError(
            f"{folder} is a run of {stored.kind}, not of train",
            hint="choose another output, or its own folder",
        )
    changes = recipe_changes(stored.request["recipe"], recipe.to_json())
    if changes:
        raise RopewalkError(
            f"the run in {folder} is finished, and the recipe is another now: {changes[0]}",
            hint="start a new run with its last checkpoint as model.path",
        )
    document = stored.read_json()
    return TrainResult(folder, [Path(path) for path in document["checkpoints"]], document["final"])


def _complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and open_run(folder, verify=False).status == "complete"


def _run(settings: Settings, engine: Any, folder: Path, take_up: Callable[[], None]) -> TrainResult:
    from ropewalk.models.load import quiet_transformers
    from ropewalk.training.prepare import prepare

    with quiet_transformers():
        loop = prepare(settings, engine, folder, take_up)
        try:
            if not loop.curriculum.finished:
                loop.run()
        finally:
            loop.engine.stop_trackers()
            loop.metrics.close()
            settings.progress.close()
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    final = {
        "path": str(checkpoints[-1]),
        "step": loop.step,
        "tokens": loop.tokens,
        "loss": loop.last_loss,
        "evaluation": loop.last_evaluation,
        "stage": loop.curriculum.state.stage,
        "length": loop.curriculum.stage.length,
        "seconds": loop.seconds,
        "tokens_per_s": loop.tokens / loop.seconds if loop.seconds else None,
    }
    result = TrainResult(folder, checkpoints, final)
    if loop.engine.is_main:
        write_json(folder / "result.json", json.loads(json.dumps(result.to_json())))
    # Only after a run that went well: whoever failed has nobody to meet at the barrier.
    engine.close()
    return result
