"""What a recipe or a caller may say about attention temperature. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The name under which an attention module holds the logarithms of its heads' temperatures.
PARAMETER = "ropewalk_log_temperature"


class TemperatureOptions(BaseModel):
    """One rule, and the divisor.

    - `constant`: logits times constant(factor)**2, or times value**2 (cos and sin are what `value` multiplies).
    - `log-n`: query at position p times max(1, ln(p+1) / ln(original_length)).
    - `step-log`: query times ln(floor((p+1) / period) + 1) * coefficient + 1.
    - `per-head`: logits of head h times kappa_h = sqrt(1 + 2 ln(factor) / sigma_h**2); `learned` trains
      them from there.
    - `none`: only the divisor.

    `divisor_power` replaces the model's own scaling of the logits by head_dim ** -power. `layers: full` leaves
    sliding layers alone, whose context does not grow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: Literal["none", "constant", "log-n", "step-log", "per-head"] = "none"
    factor: Annotated[float, Field(ge=1.0)] | None = None
    value: Annotated[float, Field(gt=0.0)] | None = None
    original_length: Annotated[int, Field(ge=2)] | None = None
    period: Annotated[int, Field(ge=1)] = 8192
    coefficient: Annotated[float, Field(gt=0.0)] = 0.1
    learned: bool = False
    divisor_power: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    layers: Literal["full", "all"] = "full"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.rule == "constant" and (self.factor is None) == (self.value is None):
            raise ValueError("constant takes either factor or value")
        if self.rule == "per-head" and self.factor is None:
            raise ValueError("per-head needs factor: how much longer the window becomes")
        if self.rule == "log-n" and self.original_length is None:
            raise ValueError("log-n needs original_length")
        if self.learned and self.rule != "per-head":
            raise ValueError("only the per-head temperature can be learned")
        return self


Way = Literal["context", "sequence"]


def row_multiple(way: Way, size: int) -> int:
    """What the length of a row must be a multiple of where `size` processes share it.

    Under `context` each holds two parts of it: see `ropewalk.attention.sharing`.
    """
    return 2 * size if way == "context" else size
