"""Everything that stands before the first step: model, data, schedule, checkpoint to resume from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from ropewalk.attention.sharing import share_attention
from ropewalk.errors import DamagedError, UsageError
from ropewalk.models.live.rotary import bare
from ropewalk.training.data.mixture import Mixture, mixture_of
from ropewalk.training.data.report import idle_processes, report, warnings_of
from ropewalk.training.data.stages import Curriculum
from ropewalk.training.engine import Engine
from ropewalk.training.held_out import HeldOut
from ropewalk.training.loading import load
from ropewalk.training.loop import Loop
from ropewalk.training.model.build import Rope, build_tokenizer
from ropewalk.training.model.lora import add_lora
from ropewalk.training.parts.parts import Parts
from ropewalk.training.parts.positions import check_target
from ropewalk.training.parts.retention.teacher import Retention
from ropewalk.training.running import Setup
from ropewalk.training.settings import CHECKPOINTS, RUN, Evaluate, Settings
from ropewalk.training.state.checkpoint import (
    Checkpoint,
    clean_leftovers,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
)
from ropewalk.training.state.identity import check_same_run, describe_run
from ropewalk.training.state.weights import read_kept


def prepare(settings: Settings, engine: Engine, folder: Path, take_up: Callable[[], None]) -> Loop:
    """The loop of a run, ready to begin where it stopped; it calls `take_up` once its recipe is known to fit."""
    recipe, progress = settings.recipe, settings.progress
    engine = engine.with_accelerator(recipe, settings.device, folder)
    if engine.sharing is not None:
        recipe.check_sharing(engine.sharing.size, engine.sharing.multiple_of)
    tokenizer = build_tokenizer(recipe.model)
    mixture, curriculum = _data(settings, tokenizer)
    loaded = load(settings, engine, tokenizer)
    rope = _rope(settings, loaded.model)
    reports = report(mixture, curriculum)
    for said in [*(found.line() for found in reports), *mixture.cache.told()]:
        progress.say(said)
    idle = idle_processes(recipe, curriculum, engine.data_world)
    for warning in [*warnings_of(reports, rope.original, tokenizer.eos_token_id is not None), *idle]:
        progress.warn(warning)
    # Before the adapters: the teacher is a copy of the base alone.
    retention = Retention.of(recipe.retention, loaded.model, window=rope.original, shortest=recipe.shortest)
    if recipe.lora is not None:
        loaded.model = add_lora(loaded.model, recipe.lora, seed=recipe.seed)
    model = loaded.model
    # One process looks and tells the others: all must go on from the same checkpoint, and one alone tidies up.
    described, checkpoint = engine.share(lambda: _start_or_resume(folder, settings, mixture, model))
    loaded.fill(checkpoint)
    with loaded.precision():
        parts = _parts(settings, folder, model, mixture, checkpoint)
    if engine.sharing is not None:
        share_attention(bare(model), engine.sharing)
    if retention is not None:
        retention.install(recipe, model, engine.accelerator.device)
        engine.shard(retention.teacher)
    loaded.split()
    setup = Setup(
        recipe,
        folder,
        model=model,
        tokenizer=tokenizer,
        parts=parts,
        retention=retention,
        engine=engine,
        mixture=mixture,
        curriculum=curriculum,
        rope=rope,
        progress=progress,
        evaluations=_evaluations(settings, tokenizer, engine, rope),
        resume_from=checkpoint,
        described=described | {"data_report": [found.to_json() for found in reports]},
        take_up=take_up,
    )
    loop = Loop(setup)
    # From here on dropout draws: what was drawn to build the model no longer counts.
    set_seed(recipe.seed)
    if checkpoint is not None and checkpoint.manifest.get("finished"):
        loop.restore_finished()
    return loop


def _data(settings: Settings, tokenizer: Any) -> tuple[Mixture, Curriculum]:
    """The sources and the stages, with what a user must know of them."""
    recipe, warn = settings.recipe, settings.progress.warn
    mixture = mixture_of(recipe, tokenizer)
    for source in mixture.sources:
        for remark in source.remarks:
            warn(remark)
    # A function, because only stages in epochs ask: the answer needs the tokens of all documents.
    curriculum = Curriculum(recipe, lambda: mixture.tokens_per_epoch)
    if recipe.optimizer.warmup_steps >= curriculum.max_steps:
        warn(
            f"optimizer.warmup_steps={recipe.optimizer.warmup_steps} is not shorter than the run of "
            f"{curriculum.max_steps} steps: the learning rate never reaches its value"
        )
    return mixture, curriculum


def _rope(settings: Settings, model: Any) -> Rope:
    """The schedules of the stages, with whatever does not fit together said or refused."""
    recipe = settings.recipe
    rope = Rope(recipe, model.config.to_dict())
    for remark in rope.remarks:
        settings.progress.warn(remark)
    skips = recipe.positions.kind != "plain"
    for number, (stage, reached) in enumerate(zip(recipe.stages, rope.reached, strict=True)):
        if skips and (recipe.positions.target_length or reached) == stage.length:
            settings.progress.warn(
                f"stages.{number}: positions {recipe.positions.kind} skips nothing, rows and schedule have both "
                f"{stage.length} tokens"
            )
        check_target(recipe.positions, target_length=reached, trained_length=stage.longest)
    return rope


def _parts(
    settings: Settings, folder: Path, model: Any, mixture: Mixture, checkpoint: Checkpoint | None
) -> Parts:
    recipe = settings.recipe
    parts = Parts(recipe, scratch=folder / "activations")
    for remark in parts.install(model, some_ids=lambda: _text_ids(mixture, recipe.longest)):
        settings.progress.warn(remark)
    if parts.tempering is not None and checkpoint is not None:
        parts.tempering.put(read_kept(checkpoint.path))
    return parts


def _text_ids(mixture: Mixture, length: int) -> torch.Tensor:
    """(1, T) tokens of the data's own beginning, at most 4096; the data's position stays where it is."""
    state = mixture.state()
    sample = mixture.take(min(length, 4096))
    mixture.restore(state)
    return torch.from_numpy(sample.ids)[None]


def _evaluations(settings: Settings, tokenizer: Any, engine: Engine, rope: Rope) -> list[Evaluate]:
    part, evaluate = settings.recipe.evaluation, settings.evaluate
    if part is None:
        if evaluate is not None:
            raise UsageError("evaluate needs a rhythm", hint="add evaluation: {every: N} to the recipe")
        return []
    longest, window = settings.recipe.longest, rope.original
    own = HeldOut(part, tokenizer, longest, window=window, sharing=engine.sharing)
    return [own] if evaluate is None else [own, evaluate]


def _start_or_resume(
    folder: Path, settings: Settings, mixture: Mixture, model: Any
) -> tuple[dict[str, Any], Checkpoint | None]:
    """On the main process: (run.json as it is to be, the checkpoint to go on from). Nothing is written yet."""
    progress, root = settings.progress, folder / CHECKPOINTS
    described = describe_run(settings.recipe, mixture, model)
    if not settings.resume or not (folder / RUN).is_file():
        if list_checkpoints(root):
            raise DamagedError(f"{folder} has checkpoints and no {RUN}", hint="restore it from a copy")
        return described, None
    for change in check_same_run(folder, settings.recipe, described, settings.allow_changes):
        progress.warn(f"CHANGED since the run began: {change}")
    clean_leftovers(root)
    checkpoint = newest_checkpoint(root, progress.warn)
    if checkpoint is None:
        progress.warn(f"{folder} has no checkpoint yet: starting at step 0")
    else:
        # Killed between the last save and its pruning, a finished run would keep one too many for ever.
        prune_checkpoints(root, settings.recipe.checkpoints.keep_last, checkpoint.path)
        progress.say(f"resuming from {checkpoint.path.name}")
    return described, checkpoint
