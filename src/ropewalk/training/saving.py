"""Checkpoints of a running loop: gathered by one process at the end of a step, or in parts while it goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import RopewalkError, one_line
from ropewalk.training.model.quantised import quantisation_of
from ropewalk.training.running import Running
from ropewalk.training.settings import CHECKPOINTS
from ropewalk.training.state.checkpoint import (
    checkpoint_folder,
    naming_a_full_disk,
    prune_checkpoints,
    write_checkpoint,
)
from ropewalk.training.state.served import base_path, finished_config, write_base
from ropewalk.training.state.sharded import begin_writing, own_tensors
from ropewalk.training.state.weights import SHARDS, ModelFiles, names_of, optimizer_tensors, write_training


class Saver:
    """Whole checkpoints: model folders with a training state, written by one process while the others wait."""

    def __init__(self, loop: Running) -> None:
        self.loop, self.root = loop, loop.folder / CHECKPOINTS

    @property
    def target(self) -> Path:
        """The checkpoint of the step that has just ended."""
        return self.root / f"step-{self.loop.step:06d}"

    def save(self) -> None:
        """Write the checkpoint of the step that has just ended, then remove what `keep_last` lets go."""
        loop, target = self.loop, self.target
        # These three gather from all processes, so all of them call; the main one alone writes.
        tensors = optimizer_tensors(loop.optimizer, names_of(loop.model), keep=loop.engine.is_main)
        state, random_tensors = loop.state()
        files = self._gathered()
        if loop.engine.is_main:
            # The log before the checkpoint: a resume can cut lines away, not bring back those that a power cut took.
            loop.metrics.sync()

            def fill(working: Path) -> None:
                self._write_model(files, working)
                write_training(working, tensors, random_tensors, state)

            with naming_a_full_disk(target):
                write_checkpoint(self.root, loop.step, fill, self._facts())
            self._prune(target)
        # A barrier: `saved` names, on every process, only what stands on the disk.
        loop.engine.share(lambda: None)
        loop.saved = target

    def poll(self) -> None:
        """Between two steps: publish what has been written meanwhile. Whole checkpoints are there at once."""

    def finish(self) -> None:
        """Wait for what is still being written."""

    def _facts(self) -> dict[str, Any]:
        loop = self.loop
        return {"tokens": loop.tokens, "loss": loop.last_loss, "finished": loop.curriculum.finished}

    def _prune(self, target: Path) -> None:
        prune_checkpoints(self.root, self.loop.recipe.checkpoints.keep_last, target)

    def _gathered(self) -> ModelFiles:
        """The model's files (every rank must call)."""
        loop = self.loop
        found = quantisation_of(loop.recipe)
        unfiled = loop.recipe.model.path is None or (found is not None and not found.as_stored)
        return ModelFiles.of(
            loop.model,
            loop.recipe.lora,
            with_base=unfiled,
            tempering=loop.parts.tempering,
            keep=loop.engine.is_main,
        )

    def _write_model(self, files: ModelFiles, working: Path) -> None:
        """A model folder, with the schedule of the stage just trained in its config.json."""
        loop = self.loop
        base = base_path(loop.folder, loop.trained_stage)
        files.write(working, loop.tokenizer, base)
        finished_config(
            working, lambda document: loop.rope.config_for(document, loop.trained_stage), loop.declared_dtype
        )
        if files.adapter:
            write_base(Path(base), working, loop.recipe.model, loop.model, files.base)


class ShardedSaver(Saver):
    """Each process writes what it holds while the next steps run; the name follows when all parts are there.

    One checkpoint is written at a time. The last of a run has a model folder around its parts.
    """

    def __init__(self, loop: Running) -> None:
        super().__init__(loop)
        # Training's own group may be a GPU's, and two threads must not use one group at a time.
        self.group = torch.distributed.new_group(backend="gloo") if loop.engine.world > 1 else None
        self._coming = self.root
        self._writing: Any = None
        self._open: contextlib.ExitStack | None = None

    def save(self) -> None:
        """Open the folder of the step that has just ended, and let every process write its part into it."""
        self.finish()
        loop, self._coming = self.loop, self.target
        state, random_tensors = loop.state()
        working = loop.engine.share(self._opened)
        (working / SHARDS).mkdir(parents=True, exist_ok=True)
        self._writing = begin_writing(working, own_tensors(loop.model, loop.optimizer), self.group)
        files = self._gathered() if loop.curriculum.finished else None
        if loop.engine.is_main:
            loop.metrics.sync()
            if files is not None:
                self._write_model(files, working)
            write_training(working, None, random_tensors, state)
        loop.engine.share(lambda: None)

    def _opened(self) -> Path:
        # Open over the steps that follow: `_publish` ends it, and the folder has its name.
        self._open = contextlib.ExitStack()
        return self._open.enter_context(checkpoint_folder(self.root, self.loop.step, self._facts()))

    def poll(self) -> None:
        """Between two steps: publish the checkpoint where all processes have written theirs."""
        # `finish` speaks with the other processes: all enter it at the same step, once the slowest has written.
        if self._writing is not None and not self.loop.engine.highest(int(not self._writing.done())):
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written and publish it; where one process failed, none of it stays."""
        if self._writing is None:
            return
        # Asking a future for its exception waits for its end.
        failure, self._writing = self._writing.exception(), None
        failed = self.loop.engine.highest(int(failure is not None))
        self.loop.engine.share(lambda: self._publish(failure, bool(failed)))
        if failure is not None:
            raise RopewalkError(
                f"checkpoint {self._coming.name} could not be written ({one_line(failure, 160)})",
                hint="the checkpoints before it are whole: mend the cause, then --resume",
            )
        self.loop.saved = self._coming

    def _publish(self, failure: BaseException | None, failed: bool) -> None:
        """On the main process: manifest and name, or nothing."""
        opened, self._open = self._open, None
        assert opened is not None
        with naming_a_full_disk(self._coming), opened:
            if failure is not None:
                # Inside the folder's context, which removes the folder on its way out.
                raise failure
            if failed:
                raise RopewalkError(
                    f"another process could not write its part of {self._coming.name}",
                    hint="the checkpoints before it are whole: mend the cause, then --resume",
                )
        self._prune(self._coming)


def saver_of(loop: Running) -> Saver:
    """Who writes the checkpoints of a run, as its recipe says."""
    kinds = {"whole": Saver, "sharded": ShardedSaver}
    return kinds[loop.recipe.checkpoints.format](loop)
