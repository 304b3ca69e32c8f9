"""What a poorer cache costs or a temperature brings: the same text and questions read in each way, beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ropewalk.attention.cache_kinds import parse_kind
from ropewalk.attention.tempers import parse_temper
from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.local import Local
from ropewalk.evaluation.loss.controls import tail_difference
from ropewalk.evaluation.loss.reading import LengthLoss, Reading, by_length
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.retrieval.scores import rows_of


def check_caches(names: Sequence[str]) -> None:
    """Refuse what is no kind of cache, or none that reading in pieces can show."""
    pressing = next((kind.name for kind in map(parse_kind, names) if kind.whole_prompt), None)
    if pressing is not None:
        raise UsageError(
            f"{pressing} compresses a prompt once it is read whole, and here texts are read in pieces",
            hint="use it with `ropewalk generate --cache`, or kvpress's own evaluation",
        )


def check_temperatures(names: Sequence[str], original_length: int | None) -> None:
    """Refuse what is no temperature, or has no window to grow from."""
    for name in names:
        parse_temper(name)
    if names and original_length is None:
        raise UsageError(
            "a temperature grows from the original window, which is not known here",
            hint="give --original-length",
        )


def measured_caches(local: Local, names: Sequence[str], full: Reading | None) -> list[dict[str, Any]]:
    """One row a kind of cache, as `_measured` gives them.

    A text is read in pieces of 64 tokens, so that the cache is what is measured; the full cache's own figures come
    from longer pieces, which changes nothing about them.
    """
    kinds = [parse_kind(name) for name in names]
    return _measured(local, [Candidate(kind.name, "cache", kind.applied) for kind in kinds], full)


def measured_temperatures(local: Local, names: Sequence[str], full: Reading | None) -> list[dict[str, Any]]:
    """One row an attention temperature; those that grow with the factor take that of the longest length."""
    original = local.original_length
    if not names or original is None:
        return []
    factor = max(1.0, max(local.lengths) / original)

    def way(name: str) -> Candidate:
        temper = parse_temper(name)
        return Candidate(name, "temperature", lambda model: temper.applied(model, factor, original))

    return _measured(local, [way(name) for name in names], full)


def _measured(local: Local, ways: Sequence[Candidate], full: Reading | None) -> list[dict[str, Any]]:
    """One row a way: loss by length with its difference from the model's own, retrieval by length."""
    owners = None if local.segments is None else local.segments.owners
    found = []
    for way in ways:
        measured = local.measure(way)
        rows = []
        if measured.reading is not None and full is not None:
            rows = [
                _row(part, measured.reading, full, owners)
                for part in by_length(measured.reading, local.lengths, owners)
            ]
        scores = retrieval_by_length(rows_of(measured.scores))
        found.append({"name": way.name, "loss": rows, "retrieval": scores})
    return found


def _row(part: LengthLoss, reading: Reading, full: Reading, owners: list[int] | None) -> dict[str, Any]:
    """The tail before a length, and what the cache or temperature costs there, with its interval over documents."""
    apart = tail_difference(reading, full, part.length, owners)
    return {
        "length": part.length,
        "tail_loss": part.tail.mean,
        "against_full": apart.mean,
        # A difference, which a temperature is there to bring below zero.
        "ci": apart.pair,
    }
