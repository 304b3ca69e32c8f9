"""Finished cells of a run, kept as they end: an interrupted evaluation goes on where it stopped.

A cell is one segment read by one reader, or one of its retrieval samples. Each process of a distributed run writes its
own files into the run's folder; all of them read everything that is there.
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

from ropewalk.errors import DamagedError, UsageError, one_line
from ropewalk.files import write_bytes, write_json

FOLDER = "cells"
LossArray = NDArray[np.float32]
_SETTINGS = "settings.json"
_HASHES = "hashes.json"
_SCORES = "scores-{rank}.jsonl"
# Whose score a line is where it does not say: the model that is evaluated.
READER = "model"


class Cells:
    """The finished cells under a run folder; without a folder nothing is kept and nothing is found."""

    def __init__(self, run: Path | None, *, rank: int = 0) -> None:
        self.folder = None if run is None else run / FOLDER
        self.rank = rank
        # Counted with or without a folder: by it a reader knows whether it had to compute anything.
        self.written = 0

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Remember what is measured, or refuse to mix cells of another measurement into this one."""
        changed = self._changed(_SETTINGS, settings)
        unknown = [name for name in changed if name not in self._before(_SETTINGS)]
        if unknown:
            raise UsageError(
                f"{self._run} was begun by an older version, which knew no {', '.join(unknown)}",
                hint="choose another -o; `ropewalk report` and `ropewalk runs show` still read it",
            )
        if changed:
            raise UsageError(
                f"{self._run} was begun with another {', '.join(changed)}",
                hint="use the same settings to finish it, or another -o",
            )

    def bind_contents(self, hashes: Mapping[str, str]) -> None:
        """Remember what the names stood for, or refuse to go on after a text or weights changed in place."""
        changed = self._changed(_HASHES, hashes)
        if changed:
            raise UsageError(
                f"since {self._run} was begun, these changed in place: {', '.join(changed)}",
                hint="choose another -o: figures of two texts or two models cannot stand in one table",
            )

    @property
    def keeps(self) -> bool:
        """Whether there is a folder to keep anything in."""
        return self.folder is not None

    @property
    def _run(self) -> Path | None:
        return None if self.folder is None else self.folder.parent

    def _changed(self, name: str, content: Mapping[str, Any]) -> list[str]:
        """Keys whose values differ from those written when the run began; nothing where it begins now."""
        if self.folder is None:
            return []
        path = self.folder / name
        if not path.exists():
            write_json(path, dict(content))
            return []
        before = self._before(name)
        # Through JSON once, as what was written went: a tuple comes back as a list and would count as a change.
        now = json.loads(json.dumps(dict(content)))
        return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))

    def _before(self, name: str) -> dict[str, Any]:
        """What was written when the run began."""
        if self.folder is None:
            return {}
        path = self.folder / name
        found = _read_json(path)
        if not isinstance(found, dict):
            raise DamagedError(f"{path} is damaged (no JSON object)", hint="choose another -o")
        return found

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
        self.written += 1
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

    def scores(self, reader: str = READER) -> list[dict[str, Any]]:
        """A reader's kept retrieval scores, whichever process made them. A line cut short by a kill is not a score."""
        return [score for name, score in self._scores() if name == reader]

    def _scores(self) -> list[tuple[str, dict[str, Any]]]:
        if self.folder is None:
            return []
        found: list[tuple[str, dict[str, Any]]] = []
        for path in sorted(self.folder.glob(_SCORES.format(rank="*"))):
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    score = _parse(line, path)
                    found.append((str(score.pop("reader", READER)), score))
        return found

    def keep_score(self, score: Mapping[str, Any], reader: str = READER) -> None:
        """Append one retrieval score of a reader."""
        self.written += 1
        if self.folder is None:
            return
        path = self.folder / _SCORES.format(rank=self.rank)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as stream:
            # A line that a kill cut short must not swallow the next one.
            if stream.tell() and not _ends_line(path):
                stream.truncate(path.read_bytes().rfind(b"\n") + 1)
            stream.write(json.dumps({"reader": reader, **score}, allow_nan=False).encode() + b"\n")

    def _path(self, name: str) -> Path | None:
        safe = re.sub(r"[^A-Za-z0-9._/-]", "_", name)
        return None if self.folder is None else self.folder / f"{safe}.npy"


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-1, io.SEEK_END)
        return stream.read(1) == b"\n"


def _parse(line: bytes, path: Path) -> dict[str, Any]:
    try:
        # Anything but a list of pairs or a mapping is no score either; UnicodeDecodeError is a ValueError.
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} holds a line that is no score", hint="delete it and run again") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise DamagedError(
            f"{path} is damaged ({one_line(error, 80)})", hint="delete it and run again"
        ) from error
