"""Which factor serves how many tokens: the rungs of a ladder, lowest first, and a rung in force on a model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ropewalk.attention.maps import applied
from ropewalk.attention.tempers import parse_temper
from ropewalk.dynamic import DynamicRule
from ropewalk.errors import UsageError
from ropewalk.map_files import is_map
from ropewalk.map_table import MAPS
from ropewalk.methods import find_method
from ropewalk.models.apply import apply
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live.regimes import Regime, find_regime, fixed_length
from ropewalk.models.live.rotary import bare
from ropewalk.models.stretch import (
    kept_parameters,
    map_for_model,
    own_window,
    read_schedules,
    refuse_stretched,
)
from ropewalk.position_maps import AnyMap, map_for
from ropewalk.schedule import FrequencySchedule

MAX_FACTOR = 64.0
_METHOD = "yarn"


@dataclass(frozen=True)
class Rung:
    """A factor and the window that it serves, by a schedule (`make`), by a position map, or by the model as it is."""

    factor: float
    window: int
    make: Callable[[], FrequencySchedule] | None = field(default=None, compare=False)
    positions: AnyMap | None = field(default=None, compare=False)
    temper: Callable[[Any], AbstractContextManager[None]] | None = field(default=None, compare=False)

    @property
    def is_own(self) -> bool:
        """Whether this is the model as it was loaded."""
        return self.make is None and self.positions is None


@dataclass(frozen=True)
class Ladder:
    """Rungs by rising window. `name` says where they come from: a method, a file, the model's own rule; `wider` what
    makes one that reaches further."""

    name: str
    rungs: tuple[Rung, ...]
    wider: str = "raise max-factor"

    def rung_for(self, tokens: int) -> Rung:
        """The lowest rung whose window holds that many tokens; UsageError where none does."""
        found = next((rung for rung in self.rungs if rung.window >= tokens), None)
        if found is None:
            last = self.rungs[-1]
            raise UsageError(
                f"{tokens} tokens are more than the widest window here, {last.window} (factor {last.factor:g} of "
                f"{self.name})",
                hint=f"shorten the prompt or max-new-tokens, or {self.wider}",
            )
        return found


def ladder_for(
    model: Any,
    *,
    method: str | None = None,
    schedule: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    growth: float = 2.0,
    max_factor: float = MAX_FACTOR,
) -> Ladder:
    """The ladder of a loaded model: as it is first, then a method at growth, growth**2, ..., or a file's rungs.

    `method` may also name a position map (`zones`, `self-extend`, ...), whose `parameters` it then takes. A model whose
    own rotation depends on the length (longrope's two sets, dynamic scaling) climbs by its own rule where no method is
    given. Factors count from the original window, and only windows beyond the model's own are stretched.
    """
    if not (math.isfinite(growth) and growth > 1.0):
        raise UsageError(f"growth={growth:g} lets no epoch end", hint="use growth > 1; 2 doubles each time")
    if not (math.isfinite(max_factor) and max_factor >= 1.0):
        raise UsageError(
            f"max_factor={max_factor:g} leaves no window", hint="use 1 (the model's own window alone) or more"
        )
    facts = read_facts(bare(model).config.to_dict())
    if schedule is not None:
        if method is not None or parameters:
            raise UsageError("a finished ladder leaves no method to choose", hint="give one or the other")
        own = [Rung(_own_factor(facts), own_window(facts))]
        path = Path(schedule)
        made = [_from_map(facts, path)] if is_map(path) else _from_file(facts, path)
        return replace(
            _above(str(schedule), own, made), wider="give a file that was made for a longer target"
        )
    regime = find_regime(bare(model))
    if regime is not None and method is None:
        return _own_rule(facts, regime, growth, max_factor)
    if method in MAPS:
        return _mapped(facts, str(method), dict(parameters or {}), growth, max_factor)
    name = find_method(_default_method(facts) if method is None else method).name
    kept = kept_parameters(facts).get(name, {})
    rule = DynamicRule(name, facts.geometry, growth, kept | dict(parameters or {}))
    widest = int(max_factor * facts.original_length)
    rungs = [
        Rung(epoch.factor, epoch.last_length, lambda length=epoch.last_length: rule.epoch_schedule(length))  # type: ignore[misc]
        for epoch in rule.epochs(widest)
    ]
    return _above(name, [Rung(_own_factor(facts), own_window(facts))], rungs)


@contextlib.contextmanager
def in_force(model: Any, rung: Rung) -> Iterator[None]:
    """Inside the block the model rotates by this rung for every length; afterwards it is what it was, bit for bit."""
    with contextlib.ExitStack() as stack:
        if rung.make is not None:
            stack.enter_context(apply(model, rung.make(), target_length=rung.window))
        if rung.positions is not None:
            stack.enter_context(applied(model, rung.positions))
        live = bare(model)
        # Once the rung's rotation is in force: an entropy-matched one measures logits under it.
        if rung.temper is not None:
            stack.enter_context(rung.temper(live))
        # A rule that looks at the length would change its mind in the middle: it is asked for the window's, once.
        stack.enter_context(fixed_length(live, rung.window if find_regime(live) is not None else None))
        yield


def tempered(ladder: Ladder, name: str, original_length: int) -> Ladder:
    """The ladder with an attention temperature on every rung but the model as it is."""
    temper = parse_temper(name)

    def at(rung: Rung) -> Rung:
        def put(model: Any) -> AbstractContextManager[None]:
            return temper.applied(model, rung.factor, original_length)

        # Higher rungs of a model's own rule have no schedule or map either, and stretch all the same.
        return rung if rung.is_own and rung is ladder.rungs[0] else replace(rung, temper=put)

    return replace(ladder, name=f"{ladder.name} at {name}", rungs=tuple(at(rung) for rung in ladder.rungs))


def _own_factor(facts: ModelFacts) -> float:
    return facts.rope.factor if facts.rope.is_scaled else 1.0


def _default_method(facts: ModelFacts) -> str:
    """A stretched model is stretched further by the method that it knows."""
    kind = facts.rope.rope_type
    return kind if facts.rope.is_scaled and kind in ("linear", "yarn", "llama3") else _METHOD


def _above(name: str, own: list[Rung], rungs: list[Rung]) -> Ladder:
    # What the model reaches as it was loaded needs no stretch, however the factors are counted.
    return Ladder(name, (*own, *(rung for rung in rungs if rung.window > own[-1].window)))


def _from_file(facts: ModelFacts, path: Path) -> list[Rung]:
    found = read_schedules(path)
    for made in found.rungs:
        if made.geometry != facts.geometry:
            raise UsageError(
                f"{path} was made for another geometry than the model's",
                hint="make it from this model, or from ropewalk.read_geometry(model)",
            )
    return [Rung(made.factor, made.target_length, lambda made=made: made) for made in found.rungs]  # type: ignore[misc]


def _from_map(facts: ModelFacts, path: Path) -> Rung:
    """A finished map serves the one window that it was made for."""
    found = map_for_model(path, facts)
    return Rung(found.target_length / facts.original_length, found.target_length, positions=found.plan)


def _mapped(
    facts: ModelFacts, name: str, parameters: dict[str, Any], growth: float, max_factor: float
) -> Ladder:
    """A position map at rising targets, over the model as it is."""
    refuse_stretched(name, facts)
    own, rungs, factor = own_window(facts), [], growth
    while factor <= max_factor:
        window = int(factor * facts.original_length)
        rungs.append(Rung(factor, window, positions=map_for(name, facts.geometry, window, **parameters)))
        factor *= growth
    return _above(name, [Rung(_own_factor(facts), own)], rungs)


def _own_rule(facts: ModelFacts, regime: Regime, growth: float, max_factor: float) -> Ladder:
    first = Rung(1.0, regime.length)
    # A switch knows two sets of frequencies and so two rungs; a dynamic rule has one for any length.
    if regime.kind == "switch":
        window = own_window(facts)
        own = first, Rung(window / regime.length, window)
        return Ladder("the model's own switch", own, "give a method")
    rungs, factor = [first], growth
    while factor <= max_factor:
        rungs.append(Rung(factor, int(factor * regime.length)))
        factor *= growth
    return Ladder("the model's own dynamic rule", tuple(rungs))
