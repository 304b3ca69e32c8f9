"""`train`: a recipe in, a run folder with checkpoints out; resumable after any kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.files import write_json
from ropewalk.runs import create_run, open_run
from ropewalk.runs.store import MANIFEST
from ropewalk.training.checkpoint import (
    Checkpoint,
    clean_leftovers,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from ropewalk.training.identity import check_same_run, describe_run, read_run, recipe_changes
from ropewalk.training.progress import Progress
from ropewalk.training.reading import read_recipe
from ropewalk.training.recipe import Recipe

CHECKPOINTS = "checkpoints"
Evaluate = Callable[[Any, int], dict[str, float] | None]


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
    folder = None if output is None else Path(output)
    if resume and folder is None:
        raise UsageError("resume needs the run folder", hint="give it with --output")
    if recipe is None:
        if folder is None or not resume:
            raise UsageError(
                "no recipe", hint="give a recipe, or the run folder of an earlier one with --resume"
            )
        recipe = read_run(folder)["recipe"]
    checked = read_recipe(recipe)
    if folder is not None:
        finished = _look(folder, checked, resume)
        if finished is not None:
            progress.warn(f"{folder} is already finished")
            return finished
    settings = Settings(checked, resume, allow_changes, evaluate, pick_device(device).type, progress)
    engine = start_engine(checked.engine, settings.device)
    if not engine.is_main:
        progress.silence()
    request = {"recipe": checked.to_json()}
    with contextlib.ExitStack() as stack:

        def make_folder() -> Path:
            run = create_run("train", request, path=folder, seed=checked.seed, resume=resume)
            return stack.enter_context(run).path

        return _run(settings, engine, engine.share(make_folder))


@dataclass(frozen=True)
class Settings:
    """What `train` was called with."""

    recipe: Recipe
    resume: bool
    allow_changes: bool
    evaluate: Evaluate | None
    device: str
    progress: Progress


def _look(folder: Path, recipe: Recipe, resume: bool) -> TrainResult | None:
    """Refuse a folder that is taken; with `resume`, the result of a run that is already complete."""
    if resume and not folder.is_dir():
        raise RopewalkError(f"{folder} is no training run to resume", hint="start it without --resume")
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RopewalkError(
                f"{folder} already holds a run or other files",
                hint="continue it with --resume, or choose another output",
            )
        return None
    if not (folder / MANIFEST).is_file():
        if all(path.name.endswith(".tmp") for path in folder.iterdir()):
            # Killed before the run had a request: nothing in here is a run yet.
            for path in folder.iterdir():
                path.unlink()
        return None
    stored = open_run(folder)
    if stored.status != "complete":
        return None
    changes = recipe_changes(stored.request["recipe"], recipe.to_json())
    if changes:
        raise RopewalkError(
            f"the run in {folder} is finished, and the recipe is another now: {changes[0]}",
            hint="start a new run with its last checkpoint as model.path",
        )
    document = stored.read_json()
    return TrainResult(folder, [Path(path) for path in document["checkpoints"]], document["final"])


def _run(settings: Settings, engine: Any, folder: Path) -> TrainResult:
    from ropewalk.models.load import quiet_transformers

    with quiet_transformers():
        loop = _prepare(settings, engine, folder)
        try:
            if not loop.curriculum.finished:
                loop.trainer.train()
        finally:
            loop.metrics.close()
            settings.progress.close()
    result = _finish(loop, folder)
    engine.close()
    return result


def _prepare(settings: Settings, engine: Any, folder: Path) -> Any:
    from ropewalk.training.build import Rope, build_model, build_tokenizer
    from ropewalk.training.data import Mixture
    from ropewalk.training.held_out import HeldOut
    from ropewalk.training.loop import Loop
    from ropewalk.training.parts import Parts
    from ropewalk.training.positions import check_target
    from ropewalk.training.stages import Curriculum
    from ropewalk.training.trainer import make_trainer, training_arguments
    from ropewalk.training.weights import read_kept, read_weights

    recipe, progress, evaluate = settings.recipe, settings.progress, settings.evaluate
    tokenizer = build_tokenizer(recipe.model)
    mixture = Mixture(recipe.data, tokenizer, recipe.seed)
    curriculum = Curriculum(recipe, mixture.tokens_per_epoch)
    model = build_model(recipe, tokenizer)
    rope = Rope(recipe, model.config.to_dict())
    if recipe.lora is not None:
        from ropewalk.training.lora import add_lora

        model = add_lora(model, recipe.lora, seed=recipe.seed)
    described = describe_run(recipe, mixture, model)
    checkpoint = engine.share(lambda: _start_or_resume(folder, settings, described))
    if checkpoint is not None:
        read_weights(checkpoint.path, model)
    for remark in rope.remarks:
        progress.warn(remark)
    for stage, reached in zip(recipe.stages, rope.reached, strict=True):
        check_target(recipe.positions, target_length=reached, trained_length=stage.longest)
    parts = Parts(
        loss=recipe.loss,
        memory=recipe.memory,
        positions=recipe.positions,
        packing=recipe.packing,
        weighting=recipe.weighting,
        temperature=recipe.temperature,
        scratch=folder / "activations",
        seed=recipe.seed,
    )
    parts.install(model, some_ids=lambda: _text_ids(mixture, recipe.longest))
    if parts.tempering is not None:
        if parts.tempering.remark is not None:
            progress.warn(parts.tempering.remark)
        if checkpoint is not None:
            parts.tempering.put(read_kept(checkpoint.path))
    engine.shard(model, settings.device)
    evaluations: list[Evaluate] = []
    if recipe.evaluation is not None:
        evaluations.append(HeldOut(recipe.evaluation, tokenizer, recipe.longest))
    if evaluate is not None:
        if recipe.evaluation is None:
            raise UsageError("evaluate needs a rhythm", hint="add evaluation: {every: N} to the recipe")
        evaluations.append(evaluate)
    loop = Loop(
        recipe,
        folder,
        model=model,
        parts=parts,
        engine=engine,
        mixture=mixture,
        curriculum=curriculum,
        rope=rope,
        progress=progress,
        save=lambda loop: _save(loop, tokenizer),
        evaluations=evaluations,
        resume_from=checkpoint,
    )
    loop.trainer = make_trainer(
        loop, model, training_arguments(recipe, folder, curriculum.max_steps, settings.device)
    )
    if checkpoint is not None and checkpoint.manifest.get("finished"):
        loop.restore_finished()
    return loop


def _text_ids(mixture: Any, length: int) -> Any:
    """(1, T) tokens of the data's own beginning, at most 4096; the data's position stays where it is."""
    import torch

    state = mixture.state()
    sample = mixture.take(min(length, 4096))
    mixture.restore(state)
    return torch.from_numpy(sample.ids)[None]


def _start_or_resume(folder: Path, settings: Settings, described: dict[str, Any]) -> Checkpoint | None:
    progress = settings.progress
    if not settings.resume or not (folder / "run.json").is_file():
        write_json(folder / "run.json", described)
        return None
    changes = check_same_run(read_run(folder), described, settings.allow_changes)
    if changes:
        for change in changes:
            progress.warn(f"CHANGED since the run began: {change}")
        write_json(folder / "run.json", described)
    root = folder / CHECKPOINTS
    clean_leftovers(root)
    checkpoint = newest_checkpoint(root, progress.warn)
    if checkpoint is None:
        progress.warn(f"{folder} has no checkpoint yet: starting at step 0")
    else:
        progress.say(f"resuming from {checkpoint.path.name}")
    return checkpoint


def _save(loop: Any, tokenizer: Any) -> Path:
    """Write the checkpoint of the step that has just ended, then remove what `keep_last` lets go."""
    from ropewalk.training.weights import ModelFiles, write_training

    state, tensors, random_tensors = loop.state()
    files = ModelFiles.of(
        loop.model, loop.recipe.lora, final=loop.curriculum.finished, tempering=loop.parts.tempering
    )
    root = loop.folder / CHECKPOINTS
    target = root / f"step-{loop.step:06d}"
    if loop.engine.is_main:
        loop.metrics.sync()

        def fill(working: Path) -> None:
            files.write(working, tokenizer)
            loop.write_config(working)
            write_training(working, tensors, random_tensors, state)

        facts = {"tokens": loop.tokens, "loss": loop.last_loss, "finished": loop.curriculum.finished}
        write_checkpoint(root, loop.step, fill, facts)
        prune_checkpoints(root, loop.recipe.checkpoints.keep_last, target)
    loop.engine.share(lambda: None)
    return target


def _finish(loop: Any, folder: Path) -> TrainResult:
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
    return result
