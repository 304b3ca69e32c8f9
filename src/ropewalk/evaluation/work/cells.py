"""Finished cells of a run, kept as they end: an interrupted evaluation goes on where it stopped.

A cell is one segment read one way, or one retrieval sample. Each process of a distributed run writes its own files
into the run's folder; all of them read everything that is there.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.files import write_bytes, write_json

FOLDER = "cells"
LossArray = NDArray[np.float32]
_SETTINGS = "settings.json"
_SCORES = "scores-{rank}.jsonl"


class Cells:
    """The finished cells under a run folder; without a folder nothing is kept and nothing is found."""

    def __init__(self, run: Path | None, *, rank: int = 0) -> None:
        self.folder = None if run is None else run / FOLDER
        self.rank = rank

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Remember what is measured, or refuse to mix cells of another measurement into this one."""
        if self.folder is None:
            return
        path = self.folder / _SETTINGS
        if not path.exists():
            write_json(path, dict(settings))
            return
        before = _read_json(path)
        now = json.loads(json.dumps(dict(settings)))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise RopewalkError(
                f"{self.folder.parent} was begun with another {', '.join(changed)}",
                hint="use the same settings to finish it, or another -o",
            )

    def losses(self, name: str) -> LossArray | None:
        """The kept losses of a cell, or None."""
        path = self._path(name)
        if path is None or not path.exists():
            return None
        try:
            found: LossArray = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedError(
                f"{path} is damaged ({one_line(error, 80)})", hint="delete it and run again"
            ) from error
        return found

    def keep_losses(self, name: str, losses: LossArray) -> None:
        """Keep a finished cell, whole."""
        path = self._path(name)
        if path is None:
            return
        stream = io.BytesIO()
        np.save(stream, losses, allow_pickle=False)
        write_bytes(path, stream.getvalue())

    def document(self, name: str) -> Any | None:
        """The kept JSON document of a cell, or None."""
        path = None if self.folder is None else self.folder / f"{name}.json"
        return None if path is None or not path.exists() else _read_json(path)

    def keep_document(self, name: str, document: Any) -> None:
        """Keep a finished cell that is a JSON document."""
        if self.folder is not None:
            write_json(self.folder / f"{name}.json", document)

    def scores(self) -> list[dict[str, Any]]:
        """All kept retrieval scores, whichever process made them. A line cut short by a kill is not a score."""
        if self.folder is None:
            return []
        found: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob(_SCORES.format(rank="*"))):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    found.append(_parse(line, path))
        return found

    def keep_score(self, score: Mapping[str, Any]) -> None:
        """Append one retrieval score."""
        if self.folder is None:
            return
        path = self.folder / _SCORES.format(rank=self.rank)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as stream:
            # A line that a kill cut short must not swallow the next one.
            if stream.tell() and not _ends_line(path):
                stream.truncate(path.read_bytes().rfind(b"\n") + 1)
            stream.write(json.dumps(dict(score), allow_nan=False).encode() + b"\n")

    def _path(self, name: str) -> Path | None:
        safe = re.sub(r"[^A-Za-z0-9._/-]", "_", name)
        return None if self.folder is None else self.folder / f"{safe}.npy"


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-1, io.SEEK_END)
        return stream.read(1) == b"\n"


def _parse(line: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except json.JSONDecodeError as error:
        raise DamagedError(f"{path} holds a line that is no score", hint="delete it and run again") from error
    return dict(document)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise DamagedError(
            f"{path} is damaged ({one_line(error, 80)})", hint="delete it and run again"
        ) from error
