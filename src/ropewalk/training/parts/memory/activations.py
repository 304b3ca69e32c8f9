"""Where activations wait between forward and backward: recomputed, moved to CPU memory, or moved to disk.

Checkpointing keeps only the input of each layer and computes the rest again; offloading then moves even those inputs
out of the device's memory. Both together make the memory of a step nearly independent of the number of layers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.training.parts.memory.options import MemoryOptions
from ropewalk.units import format_bytes

MOUNTS = Path("/proc/self/mounts")


def prepare(model: Any, options: MemoryOptions) -> None:
    """Switch the model's own activation checkpointing on or off, as asked."""
    if not options.checkpointing:
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UsageError(
            f"{type(model).__name__} does not support activation checkpointing",
            hint="set memory.checkpointing to false",
        )
    # The reentrant kind loses the gradients where a layer's input has none, as above frozen embeddings under LoRA.
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings, every_n_layers=options.checkpoint_every)
    elif options.checkpoint_every == 1:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    else:
        raise UsageError(
            f"memory.checkpoint_every={options.checkpoint_every} needs a newer transformers",
            hint="use 1, or update it",
        )


def no_effect(options: MemoryOptions) -> str | None:
    """What a user should know of a setting that changes nothing on this machine."""
    if options.offload == "cpu" and not torch.cuda.is_available():
        return "memory.offload: cpu has no effect without a GPU, activations are there already: use disk"
    if options.checkpoint_every > 1 and not options.checkpointing:
        return "memory.checkpoint_every has no effect without memory.checkpointing"
    return None


def activation_memory(
    model: nn.Module, options: MemoryOptions
) -> contextlib.AbstractContextManager[ActivationOffload | None]:
    """The context in which forward AND backward of every step run. It may be entered once for a whole run.

    Leaving it removes whatever is left on disk. With `offload: none` it does nothing.
    """
    if options.offload == "none":
        return contextlib.nullcontext()
    return ActivationOffload(options, keep=model.parameters())


class ActivationOffload:
    """Saved tensors of at least `offload_smallest` bytes leave the device during forward and return in backward.

    Parameters never move. To disk, each tensor is a file of raw
    bytes in a private temporary folder, deleted as soon as it was read back for the last time; no more than
    `offload_limit` bytes are ever there (what exceeds it stays in memory).
    """

    def __init__(self, options: MemoryOptions, *, keep: Iterable[Tensor] = ()) -> None:
        self.options = options
        self.stored_bytes = 0
        self.peak_bytes = 0
        # By storage: autograd saves views of a weight too, such as its transpose.
        self._kept = {item.untyped_storage().data_ptr() for item in keep}
        self._folder: Path | None = None
        self._made_root = False
        self._hooks: Any = None
        self._count = 0

    def __enter__(self) -> Self:
        if self.options.offload == "disk":
            root = Path(self.options.offload_folder or tempfile.gettempdir())
            self._made_root = not root.exists()
            self._folder = _private_folder(root)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._made_root:
                with contextlib.suppress(OSError):
                    self._folder.parent.rmdir()
            self._folder = None

    def _pack(self, tensor: Tensor) -> Any:
        size = tensor.numel() * tensor.element_size()
        limit = self.options.offload_limit
        if (
            size < self.options.offload_smallest
            or tensor.layout != torch.strided
            or tensor.untyped_storage().data_ptr() in self._kept
            or (limit is not None and self.stored_bytes + size > limit)
            or (self.options.offload == "cpu" and tensor.device.type == "cpu")
        ):
            return tensor
        place = _OnDisk(self, tensor, size) if self.options.offload == "disk" else _OnCpu(self, tensor, size)
        self.stored_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.stored_bytes)
        return place

    @staticmethod
    def _unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.load()

    def _next_path(self) -> Path:
        assert self._folder is not None, "activations are saved inside the context"
        self._count += 1
        return self._folder / f"{self._count}.bin"

    def _released(self, size: int) -> None:
        self.stored_bytes -= size


class _OnCpu:
    def __init__(self, owner: ActivationOffload, tensor: Tensor, size: int) -> None:
        self._owner, self._size, self._device = owner, size, tensor.device
        self._copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
        # Blocking: once packed, the device may give the tensor's memory to another.
        self._copy.copy_(tensor, non_blocking=False)

    def load(self) -> Tensor:
        return self._copy.to(self._device, non_blocking=False)

    def __del__(self) -> None:
        self._owner._released(self._size)


class _OnDisk:
    def __init__(self, owner: ActivationOffload, tensor: Tensor, size: int) -> None:
        self._owner, self._size = owner, size
        self._device, self._dtype, self._shape = tensor.device, tensor.dtype, tensor.shape
        self._path = owner._next_path()
        # As bytes, because numpy has no bfloat16.
        flat = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8)
        try:
            with open(self._path, "wb") as stream:
                stream.write(flat.numpy().data)
        except OSError as error:
            raise RopewalkError(
                f"cannot put an activation of {format_bytes(size)} into {self._path.parent} "
                f"({one_line(error.strerror or error)})",
                hint="free the disk, set memory.offload_folder elsewhere, or memory.offload_limit lower",
            ) from error

    def load(self) -> Tensor:
        flat = torch.empty(self._size, dtype=torch.uint8)
        with open(self._path, "rb") as stream:
            found = stream.readinto(flat.numpy().data)
        if found != self._size:
            raise RopewalkError(
                f"an activation on disk has {found} of {self._size} bytes ({self._path})",
                hint="something else writes to the offload folder: give training its own",
            )
        return flat.view(self._dtype).view(self._shape).to(self._device)

    # Autograd drops what it saved after its last use, and also when a step fails: either way the file goes.
    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._owner._released(self._size)


def _private_folder(root: Path) -> Path:
    """A new folder of this process; folders that processes no longer alive left behind are removed first."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_memory(root)
        for folder in root.glob("ropewalk-activations-*-*"):
            number = folder.name.split("-")[2]
            # A link could lead anywhere: only folders that a process of ours made are removed.
            if number.isdigit() and not folder.is_symlink() and not _alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"ropewalk-activations-{os.getpid()}-", dir=root))
    except OSError as error:
        raise RopewalkError(
            f"cannot make a folder for activations in {root} ({one_line(error.strerror or error)})",
            hint="set memory.offload_folder to a folder on a disk with free space",
        ) from error


def _refuse_memory(root: Path) -> None:
    """A tmpfs is memory: activations moved there would save nothing."""
    if not MOUNTS.exists():
        return
    here = root.resolve()
    best = ("", "")
    for line in MOUNTS.read_text(errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        # The kernel writes a blank in the name of a mount point as \040.
        point = point.replace("\\040", " ")
        # Mounts lie inside one another: the innermost that holds the folder decides.
        if here.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    if best[1] in ("tmpfs", "ramfs"):
        raise UsageError(
            f"{root} is a {best[1]}: it lies in memory, so activations moved there would save none",
            hint="set memory.offload_folder to a folder on a disk",
        )


def _alive(process: int) -> bool:
    try:
        # Signal 0 reaches nobody and only asks whether the process is there.
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # It lives, and belongs to someone else.
    except PermissionError:
        return True
    return True
