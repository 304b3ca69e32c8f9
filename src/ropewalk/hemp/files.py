"""Where the bundled model lies."""

from __future__ import annotations

from pathlib import Path

from ropewalk.errors import RopewalkError

FOLDER = Path(__file__).parent / "model"


def folder() -> Path:
    """The folder of the bundled model, as `transformers` reads it.

    >>> folder().name
    'model'
    """
    if not (FOLDER / "config.json").is_file():
        raise RopewalkError(
            f"the bundled model is missing from this installation ({FOLDER})",
            hint="install ropewalk again, or train it: ropewalk train hemp",
        )
    return FOLDER
