"""What a recipe may say about the parts of training. No torch here, so that a recipe is read and checked in no time.

Every block is optional, strict (an unknown key is an error) and frozen; `None` means unset.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ropewalk.errors import RopewalkError
from ropewalk.units import parse_bytes, parse_length


def _length(value: object) -> object:
    if not isinstance(value, str):
        return value
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


Tokens = Annotated[int, BeforeValidator(_length), Field(ge=1)]
TokensFrom = Annotated[int, BeforeValidator(_length), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(ge=0.0, lt=1.0)]


class Options(BaseModel):
    """Base of every block: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossOptions(Options):
    """How the loss is computed: `auto` takes liger-kernel on a GPU where it is installed, our own chunks elsewhere.

    `chunk` is in tokens; unset it is 1024 on a GPU and 256 on a CPU, whose cache is small.
    """

    engine: Literal["auto", "chunked", "liger", "plain"] = "auto"
    chunk: Annotated[int, Field(ge=1)] | None = None


class MemoryOptions(Options):
    """Where activations live between forward and backward: `checkpoint_every: 2` recomputes every other layer."""

    checkpointing: bool = False
    checkpoint_every: Annotated[int, Field(ge=1)] = 1
    offload: Literal["none", "cpu", "disk"] = "none"
    offload_folder: str | None = None
    offload_limit: Bytes | None = None
    offload_smallest: Bytes = 256 * 1024


class PositionOptions(Options):
    """Position-skip training: positions up to `target_length` inside a shorter window."""

    kind: Literal["plain", "pose", "random"] = "plain"
    target_length: Tokens | None = None
    num_chunks: Annotated[int, Field(ge=2, le=1024)] = 2
    share: Share = 1.0
    keep_first: bool = True


class PackingOptions(Options):
    """What a token may see of the other documents in its row, and where positions start."""

    boundaries: Literal["block-diagonal", "none"] = "block-diagonal"
    positions: Literal["restart", "run-on"] = "restart"
    engine: Literal["auto", "varlen", "mask", "native"] = "auto"


class ShapeWeight(Options):
    """A weight that depends on how much context a token has (`position`) or how far back it repeats (`distance`).

    power: ((x + 1) / span) ** exponent; ramp: linear from `low` at 0 to `high` at `span`; bands: the weight of the
    last band whose start is not beyond x, as [[start, weight], ...], and 1 before the first.
    """

    by: Literal["position", "distance"] = "position"
    shape: Literal["power", "ramp", "bands"] = "ramp"
    exponent: Annotated[float, Field(gt=0.0, le=8.0)] = 1.0
    low: Annotated[float, Field(ge=0.0)] = 0.0
    high: Annotated[float, Field(gt=0.0)] = 1.0
    span: Tokens | None = None
    bands: tuple[tuple[TokensFrom, Annotated[float, Field(ge=0.0)]], ...] = ()

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


class LongTokenWeight(Options):
    """weight = clip(exp(loss with `context` tokens - loss with all), floor, ceiling), as in LongCE (2410.23771)."""

    context: Tokens = 256
    stride: Tokens | None = None
    floor: Annotated[float, Field(ge=0.0)] = 0.0
    ceiling: Annotated[float, Field(gt=0.0)] = 5.0


class NearMask(Options):
    """No loss on tokens with fewer than `tokens` of context, or that repeat something nearer than that."""

    by: Literal["position", "distance"] = "position"
    tokens: Tokens


class EasyMask(Options):
    """No loss on tokens that the model already knows: loss under `below` nats, or in the lowest `quantile`."""

    below: Annotated[float, Field(gt=0.0)] | None = None
    quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.below is None) == (self.quantile is None):
            raise ValueError("easy takes either below (nats) or quantile, not both")
        return self


class InputNoise(Options):
    """A share of the input tokens replaced, in spans, by one token or by random ones; the labels stay."""

    share: OpenShare
    kind: Literal["token", "random"] = "random"
    token_id: Annotated[int, Field(ge=0)] | None = None
    span: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _token(self) -> Self:
        if (self.kind == "token") != (self.token_id is not None):
            raise ValueError("kind: token needs token_id, and only that kind takes it")
        return self


class FarDrop(Options):
    """A share of the tokens more than `near` before the end left out of the row; the rest keep their positions."""

    share: OpenShare
    near: Tokens


class WeightingOptions(Options):
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


class InitialiseOptions(Options):
    """Initialisation of a new model by the length it will be trained at; see `ropewalk.initialise`."""

    length: Tokens
    qk: Literal["critical", "variance", "entropy"] = "critical"
    reference_length: Tokens = 512
    output_gain: bool = True


class LoraOptions(Options):
    """Low-rank adapters through peft, with norms and embeddings trainable as LongLoRA found necessary."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    dropout: OpenShare = 0.0
    targets: Literal["attention", "all-linear"] | tuple[str, ...] = "attention"
    train_norms: bool = False
    train_embeddings: bool = False
    save: Literal["merged", "adapter"] = "merged"
