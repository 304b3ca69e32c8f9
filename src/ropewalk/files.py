"""Writing files so that a reader sees the old content or the new, never half of it; reading a document by its path."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ropewalk.errors import DamagedError, RopewalkError, UsageError, one_line


def as_path(value: Any, name: str) -> Path:
    """The path that an argument of that name gives; from Python anything may come."""
    # Bytes are a path to the system and none to pathlib; an empty one would be the present folder.
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str) or not given.strip() or "\0" in given:
        raise UsageError(
            f"{name}={one_line(repr(value), 60)} is not a path", hint="give the path of a file or folder"
        )
    return Path(given)


def read_json(path: Path, *, hint: str) -> Any:
    """The JSON document of a file that a person named; what cannot be read or is no JSON is said."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RopewalkError(
            f"cannot read {path} ({error.strerror or type(error).__name__})", hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        # A thousand nested brackets are valid JSON, and more than the parser's stack.
        raise DamagedError(f"{path} is not JSON ({one_line(error, 120)})", hint=hint) from error


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: temporary name beside it, fsync, rename."""
    try:
        with whole_file(Path(path)) as stream:
            stream.write(content)
    except OSError as error:
        raise _cannot_write(Path(path), error) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """The stream of a file that stands under its name once the block ends well, and leaves nothing otherwise.

    What the disk says of it (OSError) is for the caller to put into words.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp opens a file for its owner alone.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            # After the rename nothing has this name any more; before it, it is half a file.
            os.unlink(temporary)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, document: Any) -> None:
    """One JSON document, keys in their given order, strict (no NaN), newline at the end."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def whole_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends well, and vanishes otherwise.

    An existing target is refused without `force`, also one that another process made meanwhile: of several writers one
    wins. With `force` the old folder is only removed once the new one is whole, and of several the last one wins.
    """
    target = Path(target)
    if (target.exists() or target.is_symlink()) and not force:
        raise _already_there(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield working
        # mkdtemp, too, makes for the owner alone.
        os.chmod(working, 0o755)
        # The content first: a name that survives a power cut must not stand over empty files.
        _fsync_tree(working)
        _swap_in(working, target, force)
        fsync_folder(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(working, ignore_errors=True)


# What a rename onto a folder that holds something, or onto a file, answers.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def _swap_in(working: Path, target: Path, force: bool) -> None:
    """Rename `working` to `target`. The rename itself is the claim: it fails where another writer was first."""
    while True:
        try:
            os.rename(working, target)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if not force:
                raise _already_there(target) from error
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old.", suffix=".tmp"))
        try:
            _replace(working, target, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        # Still there, another writer came in between: once more.
        if not working.exists():
            return


def _replace(working: Path, target: Path, aside: Path) -> None:
    """The old target aside and the new one in its place; another writer's step in between leaves `working` to retry."""
    try:
        os.rename(target, aside / target.name)
    except FileNotFoundError:
        return
    try:
        os.rename(working, target)
    except OSError as error:
        if error.errno in _TAKEN:
            return
        # The old folder comes back before anybody hears of the failure.
        os.rename(aside / target.name, target)
        raise


def _already_there(target: Path) -> RopewalkError:
    return RopewalkError(
        f"{target} already exists", hint="choose another output, or pass --force to replace it"
    )


def _fsync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    fsync_folder(folder)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _cannot_write(path: Path, error: OSError) -> RopewalkError:
    reason = one_line(error.strerror or error)
    # A file that is none of the half-written ones was read, not written: its name is the whole answer. A copy that
    # does not fit names what it was made of, which is none.
    if (
        error.errno not in _FULL
        and error.filename is not None
        and f".{path.name}." not in str(error.filename)
    ):
        reason = f"{reason}: {one_line(error.filename)}"
    return RopewalkError(
        f"cannot write {path} ({reason})", hint="check free space and permissions, or write elsewhere"
    )
