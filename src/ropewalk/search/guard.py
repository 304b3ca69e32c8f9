"""Whether a fit is better than its start: no answers lost, and a gain beyond its noise."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.errors import RopewalkError
from ropewalk.search.job import Rung
from ropewalk.search.objective import Terms, gains_over, joined, summed, surely_fewer
from ropewalk.search.reading import Reader, Reading


@dataclass
class Guard:
    """Holds what is fitted against its start on one rung. `start` is what the rung's `before` was measured of.

    One answer of sixteen that is lost may be noise. Where fewer are found, but not surely fewer, both are asked further
    questions, and all of them together decide.
    """

    reader: Reader
    rung: Rung
    start: Reading
    _further: Terms | None = None

    @property
    def before(self) -> Terms:
        """The start on validation."""
        if self.rung.before is None:
            raise RopewalkError("the start was not measured", hint="measure it before the fit")
        return self.rung.before

    def lost(self, subject: Reading, after: Terms) -> str | None:
        """Which answers `subject`, measured at `after` on validation, finds fewer of; None where it keeps them."""
        before, further = self.before, self.rung.further
        if after.answers >= before.answers or surely_fewer(before, after) or not further:
            return _fewer(before, after)
        if self._further is None:
            self._further = self.reader.terms(self.start, further)
        rows = [*self.rung.validation, *further]
        return _fewer(
            joined(before, self._further, rows), joined(after, self.reader.terms(subject, further), rows)
        )


def _fewer(before: Terms, after: Terms) -> str | None:
    """The tasks that find fewer answers, where all together do, or one of them surely; in words."""
    if after.answers >= before.answers and not surely_fewer(before, after):
        return None
    return ", ".join(
        f"{task}: {sum(after.found[task]):.0f} of {len(values)}, the start {sum(values):.0f}"
        for task, values in before.found.items()
        if sum(after.found[task]) < sum(values)
    )


def reason_to_keep_start(guard: Guard, subject: Reading, after: Terms) -> str | None:
    """Why the start is given back instead of `subject`; None where that is better beyond its noise."""
    lost = guard.lost(subject, after)
    if lost is not None:
        return f"the fit finds fewer answers ({lost})"
    found = gains_over(guard.before, after, guard.rung.validation)
    total = summed(found.values()).value
    if total <= 0:
        return f"the fit is {-total:.4f} behind it on validation"
    if not any(gain.sure for gain in found.values()):
        said = ", ".join(f"{kind} {gain.value:+.4f} ± {gain.error:.4f}" for kind, gain in found.items())
        return f"the fit's gain on validation is within its standard error ({said})"
    return None
