"""Finished candidates on disk: an interrupted comparison keeps them, and the next call measures only the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, UsageError
from ropewalk.evaluation.compare.candidates import Candidate
from ropewalk.evaluation.compare.measure import Scores

FORMAT = "ropewalk-compare-part/1"


@dataclass
class Finished:
    """The scores so far, by label, and the run folder that keeps them."""

    run: Any
    scores: dict[str, Scores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, request: dict[str, Any], path: str | Path | None, seed: int) -> Iterator[Finished]:
        """A new run, or an unfinished one at `path` with the same request."""
        from ropewalk.runs import create_run

        if path is not None:
            _check_same(Path(path), request)
        with create_run(
            "compare", request, path=None if path is None else Path(path), seed=seed, resume=True
        ) as run:
            finished = cls(run)
            if run.resumed:
                finished._read_back()
            yield finished

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.run.path)

    def keep(self, candidate: Candidate, scores: Scores, seconds: float) -> None:
        """Write one finished candidate."""
        self.scores[candidate.name] = scores
        self.seconds[candidate.name] = seconds
        document = {
            "format": FORMAT,
            "name": candidate.name,
            "seconds": seconds,
            "schedule": candidate.schedule.to_json(),
            "scores": scores.to_json(),
        }
        self.run.write_json(f"parts/{candidate.slug}.json", document)

    def write_result(self, document: dict[str, Any]) -> None:
        """The whole result; the manifest follows when the block ends."""
        self.run.write_json("result.json", document)

    def _read_back(self) -> None:
        from ropewalk.runs.documents import read_document

        for path in sorted((self.path / "parts").glob("*.json")):
            document = read_document(path)
            try:
                if document["format"] != FORMAT:
                    raise KeyError("format")
                self.scores[document["name"]] = Scores.from_json(document["scores"])
                self.seconds[document["name"]] = float(document["seconds"])
            except (KeyError, TypeError, ValueError) as error:
                raise DamagedError(
                    f"{path} is not a finished candidate of a comparison ({error!r})",
                    hint="delete that file and run again: it will be measured afresh",
                ) from error


def _check_same(path: Path, request: dict[str, Any]) -> None:
    """An unfinished run goes on only for the same request: figures of two requests cannot stand in one table."""
    file = path / "request.json"
    if not file.is_file():
        return
    from ropewalk.runs.documents import read_document

    before = read_document(file).get("request")
    if not isinstance(before, dict):
        raise DamagedError(f"{file} has no request", hint="choose another output")
    changed = sorted(key for key in request if before.get(key) != request[key])
    if changed:
        raise UsageError(
            f"the run in {path} was asked for something else ({', '.join(changed)} differ)",
            hint="repeat the first call to complete it, or choose another output",
        )
