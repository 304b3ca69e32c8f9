"""`apply`: a schedule on a loaded model, exactly as a stock reload of the written configuration would have it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live import direct, tables
from ropewalk.models.live.readback import Reading, Untouched, read_back, read_back_tables
from ropewalk.models.live.rotary import bare, rotary_modules
from ropewalk.models.live.state import Patch, transfer
from ropewalk.models.live.twin import twin_of
from ropewalk.models.structure.values import shown
from ropewalk.models.writing.carrier import carry, schedules_for
from ropewalk.schedule import FrequencySchedule

_STACK = "_ropewalk_applied"


class Applied:
    """A schedule in force on a live model. `remove()`, or leaving the `with` block, restores every bit.

    `persistent` says whether `save_pretrained` and `ropewalk extend` can carry the schedule; `reason` why not.
    `config` is the configuration that stock software would read. `readings` are the frequencies read back from the
    live modules after the write, with their largest relative deviation from the schedule.
    """

    def __init__(self, model: Any, schedule: FrequencySchedule, layers: str) -> None:
        self.model = model
        self.schedule = schedule
        self.layers = layers
        self.persistent = True
        self.reason = ""
        self.base_config: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.readings: tuple[Reading, ...] = ()
        self._patch = Patch()
        self._read: Callable[[], tuple[Reading, ...]] = tuple

    @property
    def active(self) -> bool:
        """Whether the schedule is in force."""
        return self in _stack_of(self.model)

    def check(self) -> tuple[Reading, ...]:
        """Read the live modules once more; RopewalkError where they no longer compute the schedule."""
        if not self.active:
            raise UsageError("the schedule was removed from the model", hint="apply it again")
        self.readings = self._read()
        return self.readings

    def remove(self) -> None:
        """Restore the model's own state, bit for bit. Removing twice does nothing."""
        stack = _stack_of(self.model)
        if self not in stack:
            return
        if stack[-1] is not self:
            raise UsageError(
                f"schedule {stack[-1].schedule.method!r} was applied over {self.schedule.method!r}",
                hint="remove the later one first",
            )
        self._patch.undo()
        stack.pop()

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "active" if self.active else "removed"
        return f"Applied({self.schedule.method}, factor={self.schedule.factor:g}, layers={self.layers!r}, {state})"


def apply(
    model: Any, schedule: FrequencySchedule, *, layers: str = "full", target_length: int | None = None
) -> Applied:
    """Put a schedule on a loaded transformers model, in place; undo it with `.remove()` or a `with` block.

    The model then is what a stock reload of the extended configuration would be: both come from the same written
    configuration, and logits are bit-equal. `layers="full"` leaves sliding-window layers alone, `"all"` stretches
    each layer type by the same method. Where stock software cannot hold the schedule, it is written to the live
    modules alone, and `persistent` is False with the `reason`. After the write the frequencies are read back from
    the live modules: a model that would ignore the schedule raises RopewalkError and is left as it was.
    """
    if not isinstance(schedule, FrequencySchedule):
        # Before the geometry of it is asked for, of which a name or a document has none.
        raise UsageError(
            f"schedule {shown(schedule)} is not a FrequencySchedule",
            hint="make one with ropewalk.schedule(method, ropewalk.read_geometry(model), factor=4), or read one "
            "with FrequencySchedule.from_json",
        )
    live = bare(model)
    _refuse_meta(live)
    stack = _stack_of(live)
    applied = Applied(live, schedule, layers)
    # A schedule over a schedule starts from the model's own configuration, not from the first one's.
    applied.base_config = stack[0].base_config if stack else live.config.to_dict()
    facts = read_facts(applied.base_config)
    schedules = schedules_for(facts, schedule, layers)
    try:
        if tables.has_tables(live):
            _put_tables(applied, schedule, target_length)
        else:
            _put(applied, facts, schedules, target_length)
        applied.readings = applied._read()
    # An interrupt, too, leaves the model as it was.
    except BaseException:
        applied._patch.undo()
        raise
    stack.append(applied)
    return applied


def _put(
    applied: Applied, facts: ModelFacts, schedules: dict[str, FrequencySchedule], target_length: int | None
) -> None:
    """Through the written configuration where stock software can hold it, into the live modules otherwise."""
    live, patch = applied.model, applied._patch
    before = twin_of(live, live.config.to_dict())
    if not rotary_modules(live):
        raise RopewalkError(
            f"{type(live).__name__} has no rotary module that a schedule could reach",
            hint="its rotation happens elsewhere: please report the model type",
        )
    # Under another schedule the present state is that one's; what must stay untouched is the model's own.
    own = before if live.config.to_dict() == applied.base_config else twin_of(live, applied.base_config)
    untouched = Untouched.of(own)
    try:
        carried = carry(
            applied.base_config, applied.schedule, target_length=target_length, layers=applied.layers
        )
        after = twin_of(live, carried.config)
    except UsageError:
        raise
    # Above, a wrong wish; here, what only a configuration cannot hold and the live modules can.
    except RopewalkError as refusal:
        applied.persistent, applied.reason = False, refusal.message
        direct.write(live, facts, schedules, target_length or applied.schedule.target_length, patch)
    else:
        applied.config = carried.config
        transfer(live, before, after, patch)
    applied._read = lambda: read_back(live, facts, schedules, untouched)


def _put_tables(applied: Applied, schedule: FrequencySchedule, target_length: int | None) -> None:
    live = applied.model
    applied.persistent = schedule.is_identity
    applied.reason = (
        "" if applied.persistent else "its table of sines is built on a fixed base, whatever config.json says"
    )
    tables.write(live, schedule, target_length or schedule.target_length, applied._patch)
    applied._read = lambda: read_back_tables(live, schedule)


def _stack_of(live: Any) -> list[Applied]:
    """The schedules in force on a model, earliest first; kept on the model itself, so that they end with it."""
    stack: list[Applied] = vars(live).setdefault(_STACK, [])
    return stack


def _refuse_meta(live: Any) -> None:
    if any(
        buffer.is_meta for module in rotary_modules(live).values() for buffer in module.buffers(recurse=False)
    ):
        raise RopewalkError(
            f"{type(live).__name__} is on the meta device: there is nothing to write to",
            hint="load its weights first, or extend the checkpoint on disk with ropewalk.extend",
        )
