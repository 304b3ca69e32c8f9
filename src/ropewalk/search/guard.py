"""Whether a schedule keeps another's answers, and a fit is better than its start beyond its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.errors import RopewalkError
from ropewalk.search.job import Rung
from ropewalk.search.objective import Terms, Weighed, gains_over, joined, summed, surely_fewer
from ropewalk.search.reading import Reader, Reading


@dataclass
class Guard:
    """Holds candidates against one `subject` that was measured at `before` on the rows of validation.

    One answer of sixteen that is lost may be noise. Where fewer are found, but not surely fewer, both are asked
    `further` questions, and all of them together decide.
    """

    reader: Reader
    validation: Sequence[Weighed]
    further: Sequence[Weighed]
    subject: Reading
    before: Terms
    _further: Terms | None = None

    @classmethod
    def of_start(cls, reader: Reader, rung: Rung, start: Reading) -> Guard:
        """For what is fitted on a rung; `start` is what the rung's `before` was measured of."""
        if rung.before is None:
            raise RopewalkError("the start was not measured", hint="measure it before the fit")
        return cls(reader, rung.validation, rung.further, start, rung.before)

    def lost(self, candidate: Reading, after: Terms) -> str | None:
        """Which answers a candidate, measured at `after` on validation, finds fewer of; None where it keeps them."""
        return _fewer(*self._asked(candidate, after))

    def surely_lost(self, candidate: Reading, after: Terms) -> bool:
        """Whether a candidate finds fewer by more than noise: for a subject that owes its place to what it found."""
        return surely_fewer(*self._asked(candidate, after))

    def _asked(self, candidate: Reading, after: Terms) -> tuple[Terms, Terms]:
        """The subject and the candidate on all that had to be asked."""
        before, further = self.before, self.further
        if after.answers >= before.answers or surely_fewer(before, after) or not further:
            return before, after
        if self._further is None:
            self._further = self.reader.terms(self.subject, further)
        rows = [*self.validation, *further]
        more = self.reader.terms(candidate, further)
        return joined(before, self._further, rows), joined(after, more, rows)


def _fewer(before: Terms, after: Terms) -> str | None:
    """The tasks that find fewer answers, where all together do, or one of them surely; in words."""
    if after.answers >= before.answers and not surely_fewer(before, after):
        return None
    return ", ".join(
        f"{task}: {sum(after.found[task]):.0f} of {len(values)}, before {sum(values):.0f}"
        for task, values in before.found.items()
        if sum(after.found[task]) < sum(values)
    )


def reason_to_keep_start(guard: Guard, candidate: Reading, after: Terms) -> str | None:
    """Why the start is given back instead of a candidate; None where that is better beyond its noise."""
    lost = guard.lost(candidate, after)
    if lost is not None:
        return f"the fit finds fewer answers ({lost})"
    found = gains_over(guard.before, after, guard.validation)
    total = summed(found.values()).value
    if total <= 0:
        return f"the fit is {-total:.4f} behind it on validation"
    if not any(gain.sure for gain in found.values()):
        said = ", ".join(f"{kind} {gain.value:+.4f} ± {gain.error:.4f}" for kind, gain in found.items())
        return f"the fit's gain on validation is within its standard error ({said})"
    return None
