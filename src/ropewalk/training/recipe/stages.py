"""What a recipe says of its stages: lengths, their mix and growth, and when each ends. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from ropewalk.training.recipe.model import RopePart
from ropewalk.training.vocabulary import Count, Length, NotNegative, Positive, Share, Strict, Tokens


class Quality(Strict):
    """Leave a stage when its loss is good enough, or no longer falls; `at_most_steps` bounds it either way.

    The loss is measured every `every` steps: the mean training loss of those steps, or the evaluation's with
    `measure: evaluation`. `loss_below` must hold `times` times in a row; `plateau` is the number of measurements in a
    row that did not improve on the best by `min_delta`.
    """

    every: Count = 20
    loss_below: Positive | None = None
    times: Count = 1
    plateau: Count | None = None
    min_delta: NotNegative = 0.0
    at_most_steps: Count
    measure: Literal["training", "evaluation"] = "training"

    @model_validator(mode="after")
    def _some_rule(self) -> Quality:
        if self.loss_below is None and self.plateau is None:
            raise ValueError("give loss_below, plateau, or both")
        return self


class Growth(Strict):
    """A stage whose length grows with every step, from `from` to the stage's length, in multiples of `multiple_of`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    # `from` is a word of Python's: a recipe writes it, the code cannot.
    from_length: Length = Field(alias="from")
    shape: Literal["linear", "exponential"] = "linear"
    multiple_of: Count = 64


class Stage(Strict):
    """One length. Exactly one of `steps`, `epochs`, `tokens` and `until` says when it ends.

    `mix` gives shorter or longer samples a share of the tokens ({512: 0.5} beside the stage's own length, which has
    the rest). `rope` gives this stage a schedule of its own, in the place of the recipe's. `sources` gives the sources
    other shares in this stage ({library: 0.4, copying: 0.6}); one that it does not name rests.
    """

    length: Length
    steps: Count | None = None
    epochs: Positive | None = None
    tokens: Tokens | None = None
    until: Quality | None = None
    grow: Growth | None = None
    mix: dict[Length, Share] = Field(default_factory=dict)
    mix_by: Literal["share", "probability"] = "share"
    rope: RopePart | None = None
    sources: dict[str, Share] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Stage:
        ends = [self.steps, self.epochs, self.tokens, self.until]
        if sum(end is not None for end in ends) != 1:
            raise ValueError("give exactly one of steps, epochs, tokens and until")
        # Shares such as 0.1, 0.2 and 0.7 do not sum to 1 exactly.
        if sum(self.mix.values()) > 1 + 1e-9:
            raise ValueError(f"the shares of mix sum to {sum(self.mix.values()):g}, more than 1")
        if self.sources is not None and not sum(self.sources.values()) > 0:
            raise ValueError("sources gives no source a share: name one, or leave sources out")
        if self.length in self.mix:
            raise ValueError(
                f"mix gives the stage's own length {self.length} a share; it has the rest already"
            )
        if self.grow is not None and not self.grow.from_length < self.length:
            raise ValueError(
                f"grow starts at {self.grow.from_length}, not below the stage's length {self.length}"
            )
        if self.grow is not None and self.until is not None:
            raise ValueError(
                "grow needs a known number of steps: use steps, epochs or tokens instead of until"
            )
        return self

    @property
    def longest(self) -> int:
        """The longest sample of the stage, in tokens."""
        return max(self.length, *self.mix) if self.mix else self.length
