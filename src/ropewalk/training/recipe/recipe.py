"""`Recipe`: everything that a training run is asked to do, checked before anything is loaded. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ropewalk.attention.options import Way, row_multiple
from ropewalk.errors import UsageError
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.retention.options import RetentionOptions
from ropewalk.training.recipe.data import DataPart, SourcePart
from ropewalk.training.recipe.model import LoraOptions, ModelPart, RopePart
from ropewalk.training.recipe.stages import Stage
from ropewalk.training.vocabulary import (
    Count,
    CountFrom,
    Length,
    NotNegative,
    OpenShare,
    Positive,
    Share,
    Strict,
)


class OptimizerPart(Strict):
    """AdamW, its 8-bit form, or Muon for the matrices, with warm-up and a decay of the learning rate.

    8 bits need bitsandbytes. `betas` and `epsilon` are AdamW's; Muon has its own momentum of 0.95.
    """

    name: Literal["adamw", "adamw-8bit", "muon"] = "adamw"
    learning_rate: Positive = 2e-5
    warmup_steps: CountFrom = 20
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    final_share: Share = 0.1
    betas: tuple[OpenShare, OpenShare] = (0.9, 0.95)
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.1
    clip: Positive | None = 1.0


class EvaluationPart(Strict):
    """A loss on held-out text every `every` steps: `tokens` tokens at each of `lengths`."""

    every: Count
    lengths: list[Length] = Field(default_factory=list)
    tokens: Length = 16384
    source: SourcePart | None = None


class CheckpointPart(Strict):
    """How often a checkpoint is written and how many stay; the last is always written and kept.

    `format: sharded` (engine fsdp2): every process writes its own part while training goes on; the last checkpoint is a
    model folder as well.
    """

    every: Count = 200
    keep_last: Count | None = 3
    format: Literal["whole", "sharded"] = "whole"


class EnginePart(Strict):
    """Who runs the step: `single`, `ddp` or `fsdp2`; `auto` takes ddp under a launcher and single otherwise.

    `context_parallel: 4` lets four processes share each row, every one with the keys of all; `sequence_parallel: 4`
    does it by an exchange of heads. Unset, what `accelerate launch` was told holds. `shards: 8` of fsdp2 divides the
    weights over groups of eight processes, each group with a copy of its own (HSDP); unset, over all.
    """

    name: Literal["auto", "single", "ddp", "fsdp2"] = "auto"
    context_parallel: Count | None = None
    sequence_parallel: Count | None = None
    shards: Count | None = None

    @model_validator(mode="after")
    def _one_way(self) -> EnginePart:
        if min(self.context_parallel or 1, self.sequence_parallel or 1) > 1:
            raise ValueError("give either context_parallel or sequence_parallel, not both")
        if self.sharing[1] > 1 and self.name == "single":
            raise ValueError("engine single is one process: shared rows need ddp or fsdp2")
        if self.shards is not None and self.name != "fsdp2":
            raise ValueError("shards divides weights: it needs engine fsdp2")
        return self

    @property
    def sharing(self) -> tuple[Way, int]:
        """How a row is shared, and by how many processes, as far as the recipe says."""
        sequence = self.sequence_parallel or 1
        return ("sequence", sequence) if sequence > 1 else ("context", self.context_parallel or 1)


class Recipe(PartsOptions):
    """A whole training run: what is trained on what, and the parts that change a step."""

    format: Literal["ropewalk-recipe/1"] = "ropewalk-recipe/1"
    name: str = Field(default="train", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    about: str = ""
    follows: str = ""
    model: ModelPart
    rope: RopePart | None = None
    data: DataPart
    stages: Annotated[list[Stage], Field(min_length=1)]
    tokens_per_step: Length
    micro_batch_tokens: Length | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: OptimizerPart = OptimizerPart()
    lora: LoraOptions | None = None
    retention: RetentionOptions | None = None
    evaluation: EvaluationPart | None = None
    checkpoints: CheckpointPart = CheckpointPart()
    engine: EnginePart = EnginePart()
    log_every: Count = 10
    report_to: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _whole_conversations(cls, given: Any) -> Any:
        """Conversations are packed whole, each for itself, unless the recipe says otherwise."""
        if not isinstance(given, dict) or "packing" in given:
            return given
        data = given.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        if isinstance(sources, list) and any(
            isinstance(item, dict) and item.get("kind") == "chat" for item in sources
        ):
            return given | {"packing": {"boundaries": "block-diagonal", "rows": "fit"}}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.temperature is not None and self.lora is not None and self.lora.save == "adapter":
            raise ValueError("an adapter cannot hold a temperature: set lora.save to merged")
        self._check_zones()
        if self.optimizer.name == "muon" and self.engine.name == "fsdp2":
            raise ValueError(
                "muon needs whole matrices, and engine fsdp2 has parts: use adamw, or engine ddp"
            )
        if self.checkpoints.format == "sharded" and (
            self.engine.name != "fsdp2" or self.temperature is not None
        ):
            raise ValueError(
                "checkpoints.format: sharded is written by engine fsdp2, without a temperature: use whole"
            )
        if self.retention is not None and self.model.path is None:
            raise ValueError("retention keeps what a checkpoint knows: a new model (init) knows nothing")
        names = [source.name for source in self.data.sources]
        for number, stage in enumerate(self.stages):
            unknown = [name for name in stage.sources or () if name not in names]
            if unknown:
                raise ValueError(
                    f"stages.{number}.sources names {unknown[0]!r}; data.sources has {', '.join(names)}"
                )
            if stage.longest > self.tokens_per_step:
                raise ValueError(
                    f"stages.{number} has samples of {stage.longest} tokens, tokens_per_step={self.tokens_per_step} "
                    "cannot hold one: raise tokens_per_step"
                )
            if stage.until is not None and stage.until.measure == "evaluation" and self.evaluation is None:
                raise ValueError(
                    f"stages.{number} ends by the evaluation's loss: add evaluation to the recipe"
                )
        way, size = self.engine.sharing
        if size > 1:
            try:
                self.check_sharing(size, row_multiple(way, size))
            except UsageError as error:
                raise ValueError(error.message) from error
        return self

    def _check_zones(self) -> None:
        """Zones count places in a row: whatever moves or parts them is refused."""
        if self.zones is None:
            return
        refused = {
            "packing.boundaries": self.packing.boundaries != "none",
            "positions": self.positions.kind != "plain",
            "weighting.far_drop": self.weighting.far_drop is not None,
        }
        for name, given in refused.items():
            if given:
                raise ValueError(f"zones count the places of one text a row: leave out {name}")

    def check_sharing(self, size: int, multiple_of: int) -> None:
        """Refuse what rows shared by `size` processes do not serve; their lengths are multiples of `multiple_of`."""
        refused = {
            "temperature": self.temperature is not None,
            "zones": self.zones is not None,
            "retention": self.retention is not None,
            "rope.short_rows": any(
                part is not None and part.short_rows == "original"
                for part in (self.rope, *(stage.rope for stage in self.stages))
            ),
            "weighting.long_tokens and weighting.easy": self.weighting.needs_losses,
        }
        refused |= {part.name: part.whole_rows for part in self.changing}
        for name, given in refused.items():
            if given:
                raise UsageError(
                    f"{name} looks at a whole row, which {size} processes share",
                    hint="leave out one of the two",
                )
        for number, stage in enumerate(self.stages):
            lengths = [stage.length, *stage.mix]
            if stage.grow is not None:
                lengths += [stage.grow.from_length, stage.grow.multiple_of]
            odd = next((length for length in lengths if length % multiple_of), None)
            if odd is not None:
                raise UsageError(
                    f"stages.{number} has rows of {odd} tokens, no multiple of {multiple_of} to share over {size} "
                    "processes",
                    hint=f"use multiples of {multiple_of}",
                )

    @property
    def shortest(self) -> int:
        """The shortest sample of any stage, in tokens."""
        return min(min((stage.length, *stage.mix)) for stage in self.stages)

    @property
    def longest(self) -> int:
        """The longest sample of any stage, in tokens."""
        return max(stage.longest for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe, every default written out."""
        return self.model_dump(mode="json", by_alias=True)
