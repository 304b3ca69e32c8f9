"""What a recipe may say about the parts of training. No torch here, so that a recipe is read and checked in no time.

Options stand beside their code where that code needs no torch at import: positions, and every part of `batch/`. Here
are those of the parts that are torch through and through (loss kernels, hooks, adapters). Every block is optional,
strict (an unknown key is an error) and frozen; `None` means unset.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ropewalk.attention.options import TemperatureOptions
from ropewalk.training.parts.batch.far import FarDrop
from ropewalk.training.parts.batch.noise import InputNoise
from ropewalk.training.parts.part import Part, PartsByName
from ropewalk.training.parts.positions import PositionOptions
from ropewalk.training.vocabulary import (
    Bytes,
    Count,
    Length,
    NotNegative,
    OpenShare,
    Positive,
    Strict,
    Tokens,
    TokensFrom,
    also,
)


class LossOptions(Strict):
    """How the loss is computed: `auto` takes liger-kernel on a GPU where it is installed, our own chunks elsewhere.

    `chunk` is in tokens; unset it is 1024 on a GPU and 256 on a CPU, whose cache is small.
    """

    kernel: Literal["auto", "chunked", "liger", "plain"] = Field(
        "auto", validation_alias=also("kernel", "engine")
    )
    chunk: Count | None = None


class MemoryOptions(Strict):
    """Where activations live between forward and backward: `checkpoint_every: 2` recomputes every other layer."""

    checkpointing: bool = False
    checkpoint_every: Count = 1
    offload: Literal["none", "cpu", "disk"] = "none"
    offload_folder: str | None = None
    offload_limit: Bytes | None = None
    offload_smallest: Bytes = 256 * 1024


class PackingOptions(Strict):
    """What a token may see of the other documents in its row, where positions start, and how rows are filled.

    `rows: stream` lays documents end to end; `rows: fit` puts whole ones together and cuts only those that are longer
    than a row, at the price of some padding.
    """

    boundaries: Literal["block-diagonal", "none"] = "block-diagonal"
    positions: Literal["restart", "run-on"] = "restart"
    rows: Literal["stream", "fit"] = "stream"
    method: Literal["auto", "varlen", "mask", "native"] = Field(
        "auto", validation_alias=also("method", "engine")
    )


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


class InitialiseOptions(Strict):
    """Initialisation of a new model by the length it will be trained at; see `ropewalk.initialise`."""

    length: Tokens
    qk: Literal["critical", "variance", "entropy"] = "critical"
    reference_length: Tokens = 512
    output_gain: bool = True


class LoraOptions(Strict):
    """Low-rank adapters through peft, with norms and embeddings trainable as LongLoRA found necessary."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: OpenShare = 0.0
    targets: Literal["attention", "all-linear"] | tuple[str, ...] = "attention"
    train_norms: bool = False
    train_embeddings: bool = False
    save: Literal["merged", "adapter"] = "merged"


class ZonesOptions(Strict):
    """Train under two zones (docs/attention.md): distances up to `near` true, farther ones under a far schedule.

    `target` is the length that far distances are kept for, at least that of the longest rows. `file` is a map that
    `ropewalk tune --search zones` wrote, in the place of everything else.
    """

    target: Length | None = None
    near: Tokens | None = None
    far_method: str = "linear"
    discount: float = 0.0
    log_discount: float = 1.0
    far_logits: Positive = 1.0
    file: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.target is None) == (self.file is None):
            raise ValueError("zones takes either target or file")
        return self


class RetentionOptions(Strict):
    """On rows inside the original window, `distil` times the distance from the base's hidden states joins the loss.

    The distance is relative and the mean over `layers` decoder layers at equal steps, the last among them.
    """

    distil: Positive = 1.0
    layers: Count = 3


class PartsOptions(Strict):
    """The parts that change what a step computes, as one value; `seed` is that of their random choices."""

    positions: PositionOptions = PositionOptions()
    packing: PackingOptions = PackingOptions(boundaries="none")
    weighting: WeightingOptions = WeightingOptions()
    loss: LossOptions = LossOptions()
    memory: MemoryOptions = MemoryOptions()
    temperature: TemperatureOptions | None = None
    parts: PartsByName = {}  # noqa: RUF012 - pydantic copies it
    zones: ZonesOptions | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def changing(self) -> list[Part]:
        """What changes a micro-batch, in the order in which it acts."""
        own = [self.weighting.input_noise, self.weighting.far_drop]
        return [*(part for part in own if part is not None), *self.parts.values()]

    @model_validator(mode="after")
    def _each_part_once(self) -> Self:
        names = [part.name for part in self.changing]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is asked for twice, under weighting and under parts: keep one")
        return self
