"""What a recipe says of the model: where it comes from, how it is stretched, what is trained of it. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ropewalk.training.vocabulary import Count, Length, Name, OpenShare, Positive, Strict, Tokens


class InitialiseOptions(Strict):
    """Initialisation of a new model by the length it will be trained at; see `ropewalk.initialise`."""

    length: Tokens
    qk: Literal["critical", "variance", "entropy"] = "critical"
    reference_length: Tokens = 512
    output_gain: bool = True


class ModelPart(Strict):
    """What is trained: a checkpoint (`path`), or a new model of an architecture (`init`: the fields of its config).

    `quantise` packs the weights of a checkpoint while it is loaded, below the adapters of `lora`.
    """

    path: Name | None = None
    init: dict[str, Any] | None = None
    tokenizer: Name | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    sliding_window: Length | Literal["none"] | None = None
    quantise: Literal["nf4", "nf4-double"] | None = None
    initialise: InitialiseOptions | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> ModelPart:
        if (self.path is None) == (self.init is None):
            raise ValueError(
                "give either path (a checkpoint) or init (config fields of a new model), not both"
            )
        if self.quantise is not None and self.path is None:
            raise ValueError("quantise is for a checkpoint (path): a new model has no weights to keep")
        if self.initialise is not None and self.init is None:
            raise ValueError("initialise is for a new model (init): a checkpoint would lose what it learnt")
        if self.init is not None:
            if not isinstance(self.init.get("model_type"), str):
                raise ValueError("init needs model_type, for example llama")
            if self.tokenizer is None:
                raise ValueError("a new model needs tokenizer: the folder of a tokenizer")
        return self


class RopePart(Strict):
    """The stretch: a method of `ropewalk methods` or a schedule file, a target, and whether it follows the stages.

    `follow: final` trains under the final schedule throughout; `follow: stage` gives each stage the factor of its own
    length (never below 1). `short_rows: original` keeps the model's own rotation for rows inside its original window.
    """

    method: Name | None = None
    schedule: Name | None = None
    target_length: Length | None = None
    factor: Positive | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    follow: Literal["final", "stage"] = "final"
    short_rows: Literal["stretched", "original"] = "stretched"
    layers: str = "full"

    @model_validator(mode="after")
    def _one_stretch(self) -> RopePart:
        if (self.method is None) == (self.schedule is None):
            raise ValueError("give either method or schedule (a file of one)")
        if self.schedule is not None and (self.parameters or self.follow == "stage"):
            raise ValueError("a schedule file is finished: it takes neither parameters nor follow")
        if self.schedule is None and (self.target_length is None) == (self.factor is None):
            raise ValueError("give either target_length or factor")
        return self


class LoraOptions(Strict):
    """Low-rank adapters through peft, with norms and embeddings trainable as LongLoRA found necessary."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: OpenShare = 0.0
    targets: Literal["attention", "all-linear"] | tuple[str, ...] = "attention"
    train_norms: bool = False
    train_embeddings: bool = False
    save: Literal["merged", "adapter"] = "merged"
