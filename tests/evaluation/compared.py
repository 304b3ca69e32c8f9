"""Made-up readings and answers of a comparison, so that verdicts can be held against what was put in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ropewalk.evaluation.candidates.candidate import Candidate, scheduled
from ropewalk.evaluation.candidates.rows import Queue
from ropewalk.evaluation.local import Measured
from ropewalk.evaluation.loss.controls import Crop
from ropewalk.evaluation.loss.reading import Reading
from ropewalk.evaluation.request import CompareRequest
from ropewalk.evaluation.result import CompareResult, LeftOut, TextUsed
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.verdict.many import Many
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import schedule

WINDOW, TARGET, DOCUMENTS = 64, 256, 8
# What `judged` takes beside the settings of a request.
_GIVEN = ("readings", "plan", "crop", "seconds", "kept", "lengths")
GEOMETRY = RopeGeometry(head_dim=16, rope_theta=1e4, original_length=WINDOW)
# Every eighth token beyond the window is one that far context tells.
KEYS = np.zeros(TARGET, dtype=bool)
KEYS[WINDOW + 4 :: 8] = True


@dataclass(frozen=True)
class Reader:
    """Losses by kind of token, credits of each text at the target, credits inside the window."""

    inside: float = 2.0
    far: float = 2.0
    keys: float = 4.0
    found: Sequence[float] = (0.0,) * 4
    found_inside: Sequence[float] = (1.0,) * 4
    noise: float = 0.02


def reading_of(reader: Reader, seed: int) -> Reading:
    """One row of losses a document: what documents share, what this reader adds, and noise of its own."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    for _ in range(DOCUMENTS):
        row = np.full(TARGET, reader.inside)
        row[WINDOW:] = reader.far
        row[KEYS] = reader.keys
        row = row + shared.normal() * 0.3 + own.normal() * reader.noise
        row[0] = np.nan
        rows.append(row.astype(np.float32))
    return Reading.prefix(dict.fromkeys([WINDOW, 2 * WINDOW, TARGET], rows))


def scores_of(reader: Reader, task: str = "needle") -> list[SampleScore]:
    """Five questions a text; the first `credit` share of them is answered."""
    return [
        SampleScore(
            task, length, depth / 4, index, 0, "teacher-forced", "full", float(depth < 5 * credit), 0.0
        )
        for length, credits in ((WINDOW, reader.found_inside), (TARGET, reader.found))
        for index, credit in enumerate(credits)
        for depth in range(5)
    ]


def judged(
    found: Mapping[str, tuple[Reading | None, Sequence[SampleScore]]],
    *,
    controls: Sequence[str] = ("unmodified", "cropped"),
    documents: Sequence[int],
    target: int = TARGET,
    contexts: Mapping[int, Any] | None = None,
    reads_text: bool = True,
    **about: Any,
) -> CompareResult:
    """The result of a comparison in which these were measured, controls among them.

    `about`: `readings` (the whole and the cropped one of `reference`), `plan`, `crop`, `seconds` and `kept` by
    name, `lengths`; anything else is a setting of the request.
    """
    given = {name: about.pop(name, None) for name in _GIVEN}
    made = schedule("linear", GEOMETRY, factor=4.0)
    queue = Queue(
        [Candidate(name, "control", cropped=name.startswith("cropped")) for name in controls],
        [scheduled(name, made) for name in found if name not in controls],
        [LeftOut(name="drope", why="needs training")],
        SimpleNamespace(original_length=WINDOW),
        target,
    )
    seconds, kept = given["seconds"] or {}, given["kept"] or ()
    measured = {
        candidate.name: Measured(
            candidate, *found[candidate.name], seconds.get(candidate.name, 0.0), candidate.name in kept
        )
        for candidate in queue.all
    }
    segments = SimpleNamespace(owners=list(documents), items=[None] * len(documents))
    local: Any = SimpleNamespace(
        request=CompareRequest(model="made", **about),
        segments=segments if reads_text else None,
        plan=given["plan"],
        crop=given["crop"] or Crop(WINDOW, WINDOW // 8),
        lengths=given["lengths"] or [WINDOW, 2 * WINDOW, TARGET],
        text_used=lambda took: None if took is None else text_that_took(took),
        remarks=["a remark"],
        not_asked=[LeftOut(name="vt", why="too long")],
        hashes={"text": "abc"},
    )
    many = Many(local, queue, measured, contexts or {}, given["readings"])
    return many.result("run", 1.0, complete=True)


def text_that_took(seconds: float) -> TextUsed:
    """A text of which nothing matters but how long one reader took."""
    return TextUsed(
        source="made", documents=[], segments=0, segment_length=0, opening_tokens=0, joined=False, sha256="",
        seconds=seconds,
    )  # fmt: skip


def comparison(
    rows: Mapping[str, Reader],
    *,
    cropped: Reader | None = None,
    unmodified: Reader | None = None,
    documents: Sequence[int] | None = None,
    tasks: Mapping[str, Mapping[str, Reader]] | None = None,
    **settings: Any,
) -> CompareResult:
    """The result that these readers come to; `tasks` gives further tasks, each with its own readers."""
    readers = {
        "unmodified": unmodified or Reader(far=5.0, keys=6.0),
        "cropped": cropped or Reader(),
        **rows,
    }
    found = {}
    for number, (name, reader) in enumerate(readers.items()):
        scores = scores_of(reader)
        for task, others in (tasks or {}).items():
            scores += scores_of(others.get(name, Reader()), task)
        found[name] = (reading_of(reader, number + 1), scores)
    contexts = {
        context: [row + np.float32(worth) for row in reading_of(readers["cropped"], 2).losses[TARGET]]
        for context, worth in ((WINDOW // 4, 0.3), (WINDOW // 2, 0.1))
    }
    owners = list(documents or range(DOCUMENTS))
    return judged(found, documents=owners, contexts=contexts, **settings)
