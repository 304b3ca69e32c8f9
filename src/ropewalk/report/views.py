"""What figures are made from: a model's geometry with schedules, or the documents of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.geometry import RopeGeometry
from ropewalk.methods import find_method, schedule
from ropewalk.planning.shape import ModelShape
from ropewalk.schedule import FrequencySchedule

DEFAULT_METHODS = ("linear", "ntk", "by-parts", "yarn", "llama3")
DEFAULT_FACTOR = 8


@dataclass(frozen=True)
class ModelView:
    """A geometry and the schedules to draw over it, all for one target length in tokens."""

    name: str
    geometry: RopeGeometry
    schedules: tuple[FrequencySchedule, ...]
    target_length: int
    shape: ModelShape | None = None
    names: tuple[str, ...] = ()

    @property
    def unscaled(self) -> FrequencySchedule:
        """The model as it is, taken to the same target."""
        factor = self.target_length / self.geometry.original_length
        return FrequencySchedule("none", self.geometry, max(factor, 1.0), self.geometry.inv_freq)

    def labels(self) -> list[str]:
        """One distinct name a schedule: the method, and its parameters where a method occurs twice."""
        if self.names:
            return list(self.names)
        names = [made.method for made in self.schedules]
        return [
            made.method if names.count(made.method) == 1 else f"{made.method} {_shown(made.parameters)}"
            for made in self.schedules
        ]


@dataclass(frozen=True)
class RunView:
    """The documents of one run that figures read."""

    id: str
    kind: str
    subject: str
    request: Mapping[str, Any]
    result: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    schedules: Mapping[str, FrequencySchedule] = field(default_factory=dict)
    status: str = "complete"

    @property
    def model(self) -> str:
        """The model's short name: the end of a path or Hub id."""
        given = next(
            (self.request[key] for key in ("model", "source") if isinstance(self.request.get(key), str)), ""
        )
        name = (
            given.rstrip("/").rpartition("/")[2] if not given.startswith(("http://", "https://")) else given
        )
        return (name if len(name) <= 40 else f"{name[:39]}…") or self.subject or self.id

    def model_view(self, most: int = 5) -> ModelView | None:
        """The geometry and the first few schedules that the run measured, best first; None where it kept none."""
        rows = self.result.get("methods")
        rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        ranked = [str(row.get("name")) for row in rows]
        names = [name for name in ranked if name in self.schedules and self.schedules[name].factor > 1.0][
            :most
        ]
        if not names:
            return None
        chosen = tuple(self.schedules[name] for name in names)
        target = max(made.target_length for made in chosen)
        given = self.result.get("target_length")
        # What the run was asked for: a schedule whose nominal factor was raised to reach it has another target.
        target = given if isinstance(given, int) and not isinstance(given, bool) and given > 1 else target
        return ModelView(self.model, chosen[0].geometry, chosen, target, names=tuple(names))


def model_view(
    name: str,
    geometry: RopeGeometry,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    target_length: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    shape: ModelShape | None = None,
) -> ModelView:
    """Schedules of the named methods for one target (default: eight times the original window).

    `parameters` go to a single method only. A method that cannot serve this geometry is an error that names it.
    """
    target = target_length or DEFAULT_FACTOR * geometry.original_length
    if target <= geometry.original_length:
        raise UsageError(
            f"target_length={target} is no stretch of original_length={geometry.original_length}",
            hint="give a longer --target",
        )
    if parameters and len(methods) != 1:
        raise UsageError(
            f"parameters were given for {len(methods)} methods", hint="name one method with --method"
        )
    made = []
    for method in methods:
        known = find_method(method)
        try:
            given = known.checked(parameters or {})
            made.append(schedule(method, geometry, target_length=target, **given))
        except RopewalkError as error:
            raise UsageError(
                f"method {method!r} cannot be drawn: {error.message}", hint=error.hint
            ) from error
    return ModelView(name, geometry, tuple(made), target, shape)


def _shown(parameters: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value}" for key, value in parameters.items() if isinstance(value, str | int | float)
    )
