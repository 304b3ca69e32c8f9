"""Where an output may go: never into, over or around the source, and --force replaces nothing but checkpoints."""

from __future__ import annotations

from pathlib import Path

from ropewalk.errors import RopewalkError, UsageError

_CHECKPOINT = ("config.json", "ropewalk.json")


def refuse_overlap(out: Path, source: Path) -> None:
    """Refuse an output, file or folder, that is the source, lies in it, or holds it."""
    # Links followed: an output that leads back into the source overlaps it.
    place, origin = out.resolve(), source.resolve()
    if place == origin or place.is_relative_to(origin) or origin.is_relative_to(place):
        raise UsageError(
            f"output {out} and the source {source} overlap; the source is never written to",
            hint="choose a place beside the model",
        )


def check_output(out: Path, source: Path, *, force: bool) -> None:
    """Refuse an output that would touch the source, or with `force` a folder that is no checkpoint."""
    if not str(out).strip() or out.name in ("", ".", ".."):
        raise UsageError(f"output {str(out)!r} names no folder of its own", hint="give a new folder, -o OUT")
    refuse_overlap(out, source)
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise RopewalkError(
            f"{out} already exists", hint="choose another output, or pass --force to replace it"
        )
    is_checkpoint = out.is_dir() and (
        any((out / name).is_file() for name in _CHECKPOINT) or not any(out.iterdir())
    )
    if not is_checkpoint or out.is_symlink():
        raise RopewalkError(
            f"{out} is not a checkpoint folder: --force replaces only those",
            hint="remove it yourself, or write elsewhere",
        )
