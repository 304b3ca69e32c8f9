"""What a recipe says of the weights of tokens. No torch here: it is read with a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ropewalk.training.parts.batch.far import FarDrop
from ropewalk.training.parts.batch.noise import InputNoise
from ropewalk.training.vocabulary import NotNegative, Positive, Strict, Tokens, TokensFrom


class ShapeWeight(Strict):
    """A weight that depends on how much context a token has (`position`) or how far back it repeats (`distance`).

    power: ((x + 1) / span) ** exponent; ramp: linear from `low` at 0 to `high` at `span`; bands: the weight of the
    last band whose start is not beyond x, as [[start, weight], ...], and 1 before the first.
    """

    by: Literal["position", "distance"] = "position"
    shape: Literal["power", "ramp", "bands"] = "ramp"
    exponent: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    low: NotNegative = 0.0
    high: Positive = 1.0
    span: Tokens | None = None
    bands: tuple[tuple[TokensFrom, NotNegative], ...] = ()

    @model_validator(mode="after")
    def _bands_for_bands(self) -> Self:
        if (self.shape == "bands") != bool(self.bands):
            raise ValueError(
                "shape: bands needs bands: [[start, weight], ...], and only that shape takes them"
            )
        starts = [start for start, _ in self.bands]
        if starts != sorted(set(starts)):
            raise ValueError(f"bands start at {starts}: write them in rising order, each start once")
        return self


class LongTokenWeight(Strict):
    """weight = clip(exp(loss with `context` tokens - loss with all), floor, ceiling), as in LongCE (2410.23771)."""

    context: Tokens = 256
    stride: Tokens | None = None
    floor: NotNegative = 0.0
    ceiling: Positive = 5.0


class NearMask(Strict):
    """No loss on tokens with fewer than `tokens` of context, or that repeat something nearer than that."""

    by: Literal["position", "distance"] = "position"
    tokens: Tokens


class EasyMask(Strict):
    """No loss on tokens that the model already knows: loss under `below` nats, or in the lowest `quantile`."""

    below: Positive | None = None
    quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.below is None) == (self.quantile is None):
            raise ValueError("easy takes either below (nats) or quantile, not both")
        return self


class WeightingOptions(Strict):
    """Token-level regularisation: each alone, or together (weights multiply, their mean over scored tokens is 1)."""

    shape: ShapeWeight | None = None
    long_tokens: LongTokenWeight | None = None
    near: NearMask | None = None
    easy: EasyMask | None = None
    input_noise: InputNoise | None = None
    far_drop: FarDrop | None = None

    @property
    def weighs(self) -> bool:
        """Whether any part changes the weight of a token in the loss."""
        return any(part is not None for part in (self.shape, self.long_tokens, self.near, self.easy))

    @property
    def needs_losses(self) -> bool:
        """Whether the weights depend on the model's own loss at each token."""
        return self.long_tokens is not None or self.easy is not None
