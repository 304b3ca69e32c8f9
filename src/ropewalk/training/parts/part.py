"""A part of training that changes micro-batches: a class with its options, its documentation and what it does.

A recipe asks for it by name, `parts: {NAME: {option: value}}`, and is read without torch: a part imports it where it
needs it. Parts act as the recipe names them, after positions are drawn and before tokens are weighed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from ropewalk.errors import RopewalkError
from ropewalk.registry import Registry
from ropewalk.training.vocabulary import Strict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Part(Strict, ABC):
    """The fields of a subclass are its options, with their defaults and rules; an unknown one is an error.

    A batch holds tensors of one shape (B, T): `input_ids`, `target_ids` (shifted: beside the state that predicts them),
    `target_weights`, `documents` and `position_ids`. Random choices come from the generators alone, one for each row:
    a resumed run then draws what it would have drawn.
    """

    name: ClassVar[str]
    # Whether positions have gaps afterwards, which not every attention takes.
    moves_positions: ClassVar[bool] = False
    # Whether it must see a row from end to end, which processes that share rows do not.
    whole_rows: ClassVar[bool] = False

    @abstractmethod
    def change(
        self, batch: dict[str, Tensor], *, rngs: Sequence[np.random.Generator], vocabulary_size: int
    ) -> dict[str, Tensor]:
        """The batch as the model shall see it; the given one stays as it is."""


PARTS: Registry[type[Part]] = Registry(
    "part of training", folder="ropewalk.training.parts.batch", group="ropewalk.parts"
)
Kind = TypeVar("Kind", bound=type[Part])


def part(kind: Kind) -> Kind:
    """Register a part under its `name`."""
    PARTS.add(kind.name, kind)
    return kind


def _read(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    return {name: _read_one(str(name), options) for name, options in given.items()}


def _read_one(name: str, options: Any) -> Any:
    if isinstance(options, Part):
        return options
    try:
        return PARTS.find(name).model_validate({} if options is None else options)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ValueError(f"{name}: {'; '.join(faults)}") from error
    except RopewalkError as error:
        raise ValueError(str(error)) from error


# What stands under `parts:` in a recipe.
PartsByName = Annotated[dict[str, SerializeAsAny[Part]], BeforeValidator(_read)]
