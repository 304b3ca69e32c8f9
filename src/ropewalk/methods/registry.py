"""The one table from a method's name to its function. Parameter schema, help and docs derive from the signature."""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union

from ropewalk.errors import UsageError, near_miss, one_line
from ropewalk.geometry import RopeGeometry, check_factor
from ropewalk.map_table import MAPS
from ropewalk.registry import Registry
from ropewalk.schedule import FrequencySchedule

_NOT_PARAMETERS = ("geometry", "factor", "return")
# What `schedule` is told by itself: among a method's parameters these would be a second answer.
_OF_THE_STRETCH = ("name", "geometry", "factor", "target_length")


@dataclass(frozen=True)
class Parameter:
    """One keyword of a method, read off its signature; `about` is its line under "Parameters:" in the docstring."""

    name: str
    type: str
    default: Any
    choices: tuple[str, ...] = ()
    about: str = ""

    def to_json(self) -> dict[str, Any]:
        """For `methods --json`."""
        document = {"name": self.name, "type": self.type, "default": self.default, "about": self.about}
        return document | ({"choices": list(self.choices)} if self.choices else {})


@dataclass(frozen=True)
class Method:
    """A registered method and what is known of it.

    `identity_free` methods change the model even where no stretch is asked for (they need training); `faster` says
    that a pair may turn faster than before; `stops_pairs` that a frequency may become zero; `monotone` that the
    profile never falls from one pair to the next.
    """

    name: str
    function: Callable[..., FrequencySchedule]
    paper: str
    needs_training: bool = False
    contrib: bool = False
    monotone: bool = True
    faster: bool = False
    stops_pairs: bool = False

    @cached_property
    def rule(self) -> str:
        """The first line of the docstring: the formula in one line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0].rstrip(".")

    @cached_property
    def doc(self) -> str:
        """The whole docstring."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def summary(self) -> str:
        """The docstring up to its parameters and its example."""
        return self.doc.partition("\nParameters:")[0].partition(">>>")[0].rstrip()

    @cached_property
    def _abouts(self) -> dict[str, str]:
        """Name -> text of the lines "    name: text" under "Parameters:"."""
        section = self.doc.partition("\nParameters:\n")[2].partition("\n\n")[0]
        return dict(re.findall(r"^    (\w+): (.+)$", section, flags=re.MULTILINE))

    @cached_property
    def _hints(self) -> dict[str, Any]:
        # Only the parameters' own types are read: a plug-in may name the others under TYPE_CHECKING alone.
        wanted = {
            name: hint for name, hint in self.function.__annotations__.items() if name not in _NOT_PARAMETERS
        }
        holder = type("Annotations", (), {"__annotations__": wanted})
        return typing.get_type_hints(holder, globalns=self.function.__globals__)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every keyword but geometry and factor, in the order of the signature."""
        found = []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name in _NOT_PARAMETERS or parameter.kind is parameter.VAR_KEYWORD:
                continue
            text, choices = _type_name(self._hints[name])
            found.append(Parameter(name, text, parameter.default, choices, self._abouts.get(name, "")))
        return tuple(found)

    @cached_property
    def passes_on(self) -> bool:
        """True for a wrapper that hands unknown keywords to another method."""
        # A `**` in the signature is how a method says so.
        kinds = [parameter.kind for parameter in inspect.signature(self.function).parameters.values()]
        return inspect.Parameter.VAR_KEYWORD in kinds

    def unusual(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the given parameters that the method would not choose itself."""
        usual = {parameter.name: parameter.default for parameter in self.parameters}
        return {name: value for name, value in given.items() if value != usual.get(name)}

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with their types enforced; a wrong name or type is a UsageError naming the right one."""
        known = {parameter.name for parameter in self.parameters}
        values = {}
        for name, value in given.items():
            if name in known:
                values[name] = _coerce(f"{self.name}: {name}", value, self._hints[name])
            elif name in _OF_THE_STRETCH:
                raise UsageError(
                    f"{name} is no parameter of method {self.name!r}",
                    hint="the stretch is given by itself: a factor, or a target",
                )
            elif self.passes_on:
                values[name] = value
            else:
                takes = f"it takes {', '.join(sorted(known)) or 'none'}"
                raise UsageError(
                    f"method {self.name!r} has no parameter {one_line(name, 60)!r}",
                    hint=near_miss(name, known, otherwise=takes, count=1, cutoff=0.6),
                )
        return values

    def to_json(self) -> dict[str, Any]:
        """One row of `methods --json`; who carries it is for the runtimes to say."""
        return {
            "name": self.name,
            "rule": self.rule,
            "parameters": [parameter.to_json() for parameter in self.parameters],
            "paper": self.paper,
            "needs_training": self.needs_training,
            "contrib": self.contrib,
        }


METHODS: Registry[Method] = Registry("method", folder="ropewalk.methods", group="ropewalk.methods")


def method(name: str, *, paper: str, **traits: Any) -> Callable[[Callable[..., FrequencySchedule]], Any]:
    """Register a function under a name; a name taken twice is an error, since nothing may be shadowed silently."""

    def register(function: Callable[..., FrequencySchedule]) -> Callable[..., FrequencySchedule]:
        METHODS.add(name, Method(name=name, function=function, paper=paper, **traits), home=function)
        return function

    return register


def methods() -> dict[str, Method]:
    """Every method by name, plug-ins included: those that need training and contrib last."""
    # False sorts before True, and the sort keeps the order inside each kind.
    ranked = sorted(METHODS.values(), key=lambda known: (known.contrib, known.needs_training))
    return {known.name: known for known in ranked}


def find_method(name: str) -> Method:
    """The method of that name; an unknown one suggests near misses."""
    if name.startswith("dynamic") and name not in METHODS:
        raise UsageError(
            f"{one_line(name, 60)!r} is a rule that picks a schedule for each length, not a schedule",
            hint="use ropewalk.dynamic(METHOD, geometry), or a static method for a checkpoint",
        )
    if name in MAPS and name not in METHODS:
        raise UsageError(
            f"{name} is a position map, code at attention time that no table of frequencies and no checkpoint carries",
            hint=f"`ropewalk generate --method {name}` runs it, `compare --methods {name}` writes the nearest table",
        )
    return METHODS.find(name, otherwise="`ropewalk methods` lists them", count=3)


def schedule(
    name: str,
    geometry: RopeGeometry,
    *,
    factor: float | None = None,
    target_length: int | None = None,
    **parameters: Any,
) -> FrequencySchedule:
    """The schedule that method `name` makes for a geometry and a stretch.

    Give `factor`, or `target_length` in tokens. A factor of 1 asks for no stretch, and every method then returns
    the model's own frequencies bit for bit, unless parameters that were given explicitly say otherwise.

    >>> geometry = RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=512)
    >>> bool(schedule("ntk", geometry, factor=8).stretch[-1].round(9) == 8.0)
    True
    """
    found = find_method(name)
    if (factor is None) == (target_length is None):
        raise UsageError(f"method {name!r} needs a stretch", hint="give either factor or target_length")
    if factor is None:
        assert target_length is not None
        factor = target_length / geometry.original_length
    factor = check_factor(factor)
    given = found.checked(parameters)
    if factor == 1.0 and not given:
        # For every method, those that stop or damp pairs too: who asks for no stretch gets the model.
        return FrequencySchedule(name, geometry, 1.0, geometry.inv_freq, native={"type": "none"})
    return found.function(geometry, factor=factor, **given)


def _type_name(hint: Any) -> tuple[str, tuple[str, ...]]:
    options = _alternatives(hint)
    names, choices = [], []
    for option in options:
        if typing.get_origin(option) is Literal:
            choices += [str(value) for value in typing.get_args(option)]
            names.append("choice")
        elif option is type(None):
            names.append("none")
        elif typing.get_origin(option) is list:
            names.append("list of numbers")
        else:
            names.append(
                {float: "number", int: "integer", bool: "flag", str: "text"}.get(option, str(option))
            )
    return " or ".join(names), tuple(choices)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _coerce(where: str, value: Any, hint: Any) -> Any:
    for option in _alternatives(hint):
        matched, result = _try_type(value, option)
        if matched:
            return result
    wanted, choices = _type_name(hint)
    wanted = f"{wanted} ({', '.join(choices)})" if choices else wanted
    raise UsageError(f"{where}={one_line(value, 60)!r} does not fit", hint=f"it takes {wanted}")


def _fits_float(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer of hundreds of digits, which JSON and YAML let through.
        return False


def _try_type(value: Any, option: Any) -> tuple[bool, Any]:
    """Whether a value is of a type, and the value as that type. Booleans are no numbers, NaN is no number at all."""
    if option is type(None):
        return value is None, None
    if typing.get_origin(option) is Literal:
        return value in typing.get_args(option), value
    if option is bool:
        return isinstance(value, bool), value
    if option is str:
        return isinstance(value, str), value
    if isinstance(value, bool):
        return False, None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if typing.get_origin(option) is list:
        # A list of parameters is always numbers: one a pair.
        if not isinstance(value, list | tuple) or not all(_try_type(item, float)[0] for item in value):
            return False, None
        return True, [float(item) for item in value]
    if not isinstance(value, int | float) or not _fits_float(value):
        return False, None
    if option is int:
        return value == int(value), int(value)
    return option is float, float(value)
