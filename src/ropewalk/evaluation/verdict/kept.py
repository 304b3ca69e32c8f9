"""What a poorer cache costs: the same text and questions read through each kind, beside the full one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.local import Local
from ropewalk.evaluation.loss.controls import tail_difference
from ropewalk.evaluation.loss.reading import LengthLoss, Reading, by_length
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.retrieval.scores import rows_of


def measured_caches(local: Local, names: Sequence[str], full: Reading | None) -> list[dict[str, Any]]:
    """One row a kind: loss by length with its difference from the full cache, retrieval by length.

    A text is read in pieces of 64 tokens, so that the cache is what is measured; the full cache's own figures come
    from longer pieces, which changes nothing about them.
    """
    from ropewalk.attention.cache_kinds import parse_kind

    if not names:
        return []
    owners = None if local.segments is None else local.segments.owners
    found = []
    for kind in [parse_kind(name) for name in names]:
        measured = local.measure(Candidate(kind.name, "cache", kind.applied))
        rows = []
        if measured.reading is not None and full is not None:
            rows = [
                _row(part, measured.reading, full, owners)
                for part in by_length(measured.reading, local.lengths, owners)
            ]
        found.append(
            {
                "name": kind.name,
                "loss": rows,
                "retrieval": retrieval_by_length(rows_of(measured.scores)),
            }
        )
    return found


def _row(part: LengthLoss, reading: Reading, full: Reading, owners: list[int] | None) -> dict[str, Any]:
    """The tail before a length, and what the cache costs there, with its interval over documents."""
    apart = tail_difference(reading, full, part.length, owners)
    return {
        "length": part.length,
        "tail_loss": part.tail.mean,
        "against_full": apart.mean,
        "ci": apart.floored().pair,
    }
