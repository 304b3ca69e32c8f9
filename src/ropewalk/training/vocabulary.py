"""The words that every block of a recipe is written in: lengths, shares, sizes, and the strict base."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from ropewalk.errors import RopewalkError
from ropewalk.units import parse_bytes, parse_length


def _length(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("write a number of tokens such as 4096, 4k or 128k")
    try:
        return parse_length(value)
    except RopewalkError as error:
        raise ValueError(str(error)) from error


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except RopewalkError as error:
        raise ValueError(str(error)) from error


def _whole(value: object) -> object:
    if isinstance(value, bool):
        # pydantic would read true as 1.
        raise ValueError(f"write a number, not {str(value).lower()}")
    return value


def _filled(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        # An empty path would be the folder that the command runs in.
        raise ValueError("is empty: give a name or path, or take the line out")
    return value


Name = Annotated[str, BeforeValidator(_filled)]
Tokens = Annotated[int, BeforeValidator(_length), Field(ge=1)]
TokensFrom = Annotated[int, BeforeValidator(_length), Field(ge=0)]
Length = Annotated[int, BeforeValidator(_length), Field(ge=2)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
CountFrom = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_whole), Field(ge=0, le=1, allow_inf_nan=False)]
OpenShare = Annotated[float, BeforeValidator(_whole), Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_whole), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, BeforeValidator(_whole), Field(ge=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Unknown keys are errors, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def also(name: str, *older: str) -> AliasChoices:
    """A key that recipes may still write in an older spelling."""
    return AliasChoices(name, *older)
