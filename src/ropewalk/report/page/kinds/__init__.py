"""What each kind of run says, one file each: a pure function from a `RunView` to a `Content`."""

from __future__ import annotations

from collections.abc import Callable

from ropewalk.report.page.content import Content
from ropewalk.report.page.kinds import comparison, evaluation, training, tuning, verification
from ropewalk.report.views import RunView

CONTENT: dict[str, Callable[[RunView], Content]] = {
    "eval": evaluation.content,
    "compare": comparison.content,
    "train": training.content,
    "tune": tuning.content,
    "verify": verification.content,
}
