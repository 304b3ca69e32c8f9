"""From a recipe to a model, a tokenizer and the schedules of its stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.schedule import FrequencySchedule
from ropewalk.training.recipe.model import ModelPart, RopePart
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.recipe.stages import Stage

if TYPE_CHECKING:
    from ropewalk.training.model.quantised import Quantisation


def build_tokenizer(part: ModelPart) -> Any:
    """The recipe's tokenizer; by default the one that travels with the model."""
    wanted = part.tokenizer if part.tokenizer is not None else part.path
    assert wanted is not None
    # `load_tokenizer` wants a whole model's folder, and a tokenizer may come in one of its own.
    if Path(wanted).is_dir() and not (Path(wanted) / "config.json").exists():
        return _tokenizer_folder(Path(wanted))
    from ropewalk.models.load import load_tokenizer

    return load_tokenizer(wanted)


def _tokenizer_folder(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from ropewalk.models.load import quiet_transformers

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise RopewalkError(
                f"{folder} holds no tokenizer that loads ({type(error).__name__}: {one_line(error, 160)})",
                hint="it needs tokenizer.json and tokenizer_config.json",
            ) from error


def build_model(
    recipe: Recipe,
    tokenizer: Any,
    *,
    empty: bool = False,
    quantisation: Quantisation | None = None,
    device: Any = "cpu",
) -> Any:
    """The model to train: a checkpoint's (`empty`: without weights), or new.

    It is on the CPU until the trainer moves it; packed weights are made where they are used, on their `device`.
    """
    part = recipe.model
    if part.path is not None:
        from ropewalk.models.load import load_model

        place = "cpu" if quantisation is None or not quantisation.packed else str(device)
        model = load_model(
            part.path,
            device=place,
            dtype=part.dtype,
            attn=part.attention,
            empty=empty,
            quantisation=None if quantisation is None else quantisation.told(place),
        )
        if quantisation is not None and quantisation.packed:
            from ropewalk.training.model.quantised import keep_layout

            keep_layout(model)
    else:
        model = _new_model(recipe, tokenizer)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise UsageError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {vocabulary}",
            hint="use the model's own tokenizer, or raise vocab_size in model.init",
        )
    # Beside the memory: with a cache transformers ignores the borders of documents.
    model.config.use_cache = False
    if part.sliding_window is not None:
        set_window(model, None if part.sliding_window == "none" else part.sliding_window)
    return model.train()


def set_window(model: Any, window: int | None) -> None:
    """Give every layer with a sliding window another one, or none: in the config, and where layers keep a copy."""
    if getattr(model.config, "sliding_window", None) is None:
        raise UsageError(
            f"model.sliding_window has no meaning for this {model.config.model_type} model: it has no sliding window",
            hint="leave it out",
        )
    model.config.sliding_window = window
    for module in model.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = window


def _new_model(recipe: Recipe, tokenizer: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from ropewalk.models.load import quiet_transformers

    fields = dict(recipe.model.init or {})
    fields.setdefault("vocab_size", len(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    with quiet_transformers():
        try:
            config = AutoConfig.for_model(fields.pop("model_type"), **fields)
            set_seed(recipe.seed)
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=recipe.model.attention, dtype=getattr(torch, recipe.model.dtype)
            )
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise UsageError(
                f"model.init makes no model ({type(error).__name__}: {one_line(error, 200)})",
                hint="its fields are those of the architecture's config.json",
            ) from error
    if recipe.model.initialise is not None:
        from ropewalk.training.model.initialise import initialise

        initialise(model, seed=recipe.seed, **recipe.model.initialise.model_dump())
    return model


class Rope:
    """The stretch of a run: which schedule holds in which stage, applied to the model as stages change."""

    def __init__(self, recipe: Recipe, config: dict[str, Any]) -> None:
        from ropewalk.models.facts import read_facts

        self.recipe = recipe
        self.applied: Any = None
        self.window = int(config.get("max_position_embeddings") or 0)
        parts = [stage.rope or recipe.rope for stage in recipe.stages]
        self.facts = None if parts == [None] * len(parts) else read_facts(config)
        self.original = self.window if self.facts is None else self.facts.original_length
        # Made once here, so that a wrong parameter is met before anything trains.
        self.schedules = [
            self._schedule(stage, part) for stage, part in zip(recipe.stages, parts, strict=True)
        ]
        self.layers = ["full" if part is None else part.layers for part in parts]
        reached = [self.window if item is None else item.target_length for item in self.schedules]
        self.reached = reached
        self.remarks = [
            f"stage {number + 1} trains samples of {stage.longest} tokens, beyond the {limit} that the model's rope "
            "is made for"
            for number, (stage, limit) in enumerate(zip(recipe.stages, reached, strict=True))
            if 0 < limit < stage.longest
        ]

    def _schedule(self, stage: Stage, part: RopePart | None) -> FrequencySchedule | None:
        if part is None:
            return None
        made = self._stretched(stage, part)
        if part.short_rows == "stretched":
            return made
        if part.layers != "full":
            raise UsageError(
                f"rope.short_rows: original and layers: {part.layers} do not go together",
                hint="leave layers at full",
            )
        # LongRoPE2 (2502.20082): what stock software calls longrope, whose second set serves short inputs.
        return replace(made, short_inv_freq=made.geometry.inv_freq, native=None)

    def _stretched(self, stage: Stage, part: RopePart) -> FrequencySchedule:
        from ropewalk.models.stretch import stretch_for

        assert self.facts is not None
        if part.schedule is not None:
            length = part.target_length
            return stretch_for(self.facts, target=length, factor=part.factor, schedule=part.schedule).schedule
        original = self.facts.original_length
        factor = part.factor if part.factor is not None else (part.target_length or 0) / original
        if part.follow == "stage":
            # Not below 1: a stage inside the window trains the rope as it is.
            factor = min(factor, max(1.0, stage.longest / original))
        return stretch_for(self.facts, part.method, factor=factor, parameters=part.parameters).schedule

    def enter(self, model: Any, number: int) -> FrequencySchedule | None:
        """Apply the schedule of a stage to the model, in the place of the one before; the schedule, or None."""
        if self.applied is not None:
            # Schedules lie on a stack: without this those of all stages would pile up.
            self.applied.remove()
            self.applied = None
        wanted = self.schedules[number]
        if wanted is not None:
            from ropewalk.models.apply import apply

            self.applied = apply(model, wanted, layers=self.layers[number])
        return wanted

    def config_for(self, config: dict[str, Any], number: int) -> dict[str, Any]:
        """config.json of a checkpoint of that stage: its schedule written for stock software."""
        wanted = self.schedules[number]
        if wanted is None:
            return config
        from ropewalk.models.writing.carrier import config_with

        target = max(wanted.target_length, wanted.geometry.original_length)
        return config_with(config, wanted, target_length=target, layers=self.layers[number])
