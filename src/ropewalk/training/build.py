"""From a recipe to a model, a tokenizer and the schedules of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.training.recipe import ModelPart, Recipe


def build_tokenizer(part: ModelPart) -> Any:
    """The recipe's tokenizer; by default the one that travels with the model."""
    wanted = part.tokenizer if part.tokenizer is not None else part.path
    assert wanted is not None
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


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model to train, on the CPU until the trainer moves it: a checkpoint's, or a new one."""
    part = recipe.model
    if part.path is not None:
        from ropewalk.models.load import load_model

        model = load_model(part.path, device="cpu", dtype=part.dtype, attn=part.attention)
    else:
        model = _new_model(recipe, tokenizer)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise UsageError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {vocabulary}",
            hint="use the model's own tokenizer, or raise vocab_size in model.init",
        )
    model.config.use_cache = False
    return model.train()


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
            return AutoModelForCausalLM.from_config(
                config, attn_implementation=recipe.model.attention, dtype=getattr(torch, recipe.model.dtype)
            )
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise UsageError(
                f"model.init makes no model ({type(error).__name__}: {one_line(error, 200)})",
                hint="its fields are those of the architecture's config.json",
            ) from error
    raise AssertionError("unreachable")


class Rope:
    """The stretch of a run: which schedule holds at which length, applied to the model as stages change."""

    def __init__(self, recipe: Recipe, config: dict[str, Any]) -> None:
        self.part = recipe.rope
        self.config = config
        self.applied: Any = None
        self.target_length: int | None = config.get("max_position_embeddings")
        if self.part is None:
            return
        from ropewalk.models.facts import read_geometry

        self.geometry = read_geometry(config)
        self.final_factor = (
            self.part.factor
            if self.part.factor is not None
            else (self.part.target_length or 0) / self.geometry.original_length
        )
        self.target_length = self.schedule_for(None).target_length

    def schedule_for(self, length: int | None) -> Any:
        """The schedule of a stage of that length; of the end of the run with None."""
        from ropewalk.methods import schedule

        assert self.part is not None
        factor = self.final_factor
        if self.part.follow == "stage" and length is not None:
            factor = min(factor, max(1.0, length / self.geometry.original_length))
        return schedule(self.part.method, self.geometry, factor=factor, **self.part.parameters)

    def enter(self, model: Any, length: int | None) -> Any:
        """Apply the schedule of a stage to the model, in the place of the one before; the schedule, or None."""
        if self.part is None:
            return None
        from ropewalk import apply

        wanted = self.schedule_for(length)
        if self.applied is not None:
            self.applied.remove()
        self.applied = apply(model, wanted, layers=self.part.layers)
        return wanted

    def config_for(self, config: dict[str, Any], length: int | None) -> dict[str, Any]:
        """config.json of a checkpoint that is as long as its stage: the schedule written for stock software."""
        if self.part is None:
            return config
        from ropewalk.models.carrier import config_with

        wanted = self.schedule_for(length)
        target = max(wanted.target_length, self.geometry.original_length)
        return config_with(config, wanted, target_length=target, layers=self.part.layers)
