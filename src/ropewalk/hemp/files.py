"""Where the bundled model lies."""

from __future__ import annotations

from pathlib import Path

from ropewalk.errors import RopewalkError


def folder() -> Path:
    """The folder of the bundled model, as `transformers` reads it.

    >>> folder().name
    'model'
    """
    path = Path(__file__).parent / "model"
    if not (path / "config.json").is_file():
        raise RopewalkError(
            f"the bundled model is missing from this installation ({path})",
            hint="install ropewalk again, or train it: ropewalk train hemp",
        )
    return path
