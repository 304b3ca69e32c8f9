"""What schedules are measured on that no search reads: the held-out half of the library, questions of other seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.search.objective import Objective, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Row, planted_rows
from ropewalk.text.corpus import held_out_documents
from ropewalk.text.segments import cut

TASKS = ("needle", "kv", "multi-needle")
TEXT_ROWS, PLANTED_ROWS = 12, 12
SEED = 7_000_001


@dataclass(frozen=True)
class HeldOut:
    """Text at the target, and planted answers at each doubling of the window."""

    text: Sequence[Row]
    planted: Mapping[int, Sequence[Row]]

    @classmethod
    def of(cls, reader: Reader, tokenizer: Any, length: int) -> HeldOut:
        """For a model and a target."""
        found = cut(held_out_documents(), tokenizer, length, limit=TEXT_ROWS).items
        window, lengths = reader.original_length, list[int]()
        while window * 2 ** len(lengths) <= length:
            lengths.append(window * 2 ** len(lengths))
        remarks: list[str] = []
        planted = {
            size: [
                row
                for task in TASKS
                for row in planted_rows(tokenizer, [task], size, PLANTED_ROWS, SEED, remarks, spread=True)
            ]
            for size in lengths
        }
        return cls([Row(np.asarray(item.ids)) for item in found], planted)

    def measure(self, reader: Reader, subject: Any, kept_first: int = 0) -> dict[str, Any]:
        """Losses, their mean and by row, and retrieval by length, under a schedule or a map."""
        window, tail = reader.original_length, reader.tail
        losses, _ = reader.read(subject, [row.ids for row in self.text], kept_first)
        # By row, so that two methods can be compared on the same tokens, in pairs.
        by_row = {
            "loss": [float(loss[window:].mean()) for loss in losses],
            "loss_at_target": [float(loss[-tail:].mean()) for loss in losses],
            "loss_in_window": [float(loss[1:window].mean()) for loss in losses],
        }
        retrieval = {}
        for length, rows in self.planted.items():
            found = reader.terms(subject, weigh(rows, window, Objective()), kept_first).found
            retrieval[str(length)] = {task: statistics.mean(values) for task, values in found.items()}
        means = {key: statistics.mean(values) for key, values in by_row.items()}
        return {**means, "by_row": by_row, "retrieval": retrieval}
