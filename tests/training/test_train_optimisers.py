"""Each optimiser takes the parameters that are meant for it, and goes on bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_resume import assert_same_run, staged, stopped_run
from torch import nn

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training.model.optimisers import OPTIMISERS, make_optimizer
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.recipe.recipe import OptimizerPart
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]
PLAIN = {"learning_rate": 1e-2, "weight_decay": 0.0}


def small_model(tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(24)[None] % 32
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_between_the_embeddings(tied: bool) -> None:
    model = small_model(tied)
    optimizer = make_optimizer(OptimizerPart(name="muon"), model)
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    matrices = {names[id(tensor)] for tensor in optimizer.parts[0].param_groups[0]["params"]}  # type: ignore[attr-defined]
    assert matrices == {name for name in names.values() if name.endswith("proj.weight")}
    every = [names[id(tensor)] for group in optimizer.param_groups for tensor in group["params"]]
    assert sorted(every) == sorted(names.values())


def test_muon_s_update_has_even_singular_values_of_adamw_s_size() -> None:
    """The update over the learning rate: singular values within a factor of two, root mean square about 0.2."""
    model = small_model()
    matrix = model.model.layers[0].mlp.up_proj.weight
    before = matrix.detach().clone()
    step(model, make_optimizer(OptimizerPart(name="muon", **PLAIN), model))
    update = (before - matrix.detach()) / PLAIN["learning_rate"]
    values = torch.linalg.svdvals(update)
    assert values.max() / values.min() < 2.5
    assert 0.14 < float(update.square().mean().sqrt()) < 0.26


def test_one_rate_and_one_state_for_both_parts() -> None:
    model = small_model()
    optimizer = make_optimizer(OptimizerPart(name="muon", **PLAIN), model)
    step(model, optimizer)
    assert len(optimizer.state) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [tensor.detach().clone() for tensor in model.parameters()]
    step(model, optimizer)
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters()))


def test_muon_s_state_survives_a_round_trip() -> None:
    one, two = small_model(), small_model()
    first, second = (make_optimizer(OptimizerPart(name="muon", **PLAIN), model) for model in (one, two))
    step(one, first)
    two.load_state_dict(one.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(one, first)
    step(two, second)
    for mine, theirs in zip(one.parameters(), two.parameters()):
        assert torch.equal(mine, theirs)


def test_muon_alone_with_vectors_is_adamw() -> None:
    model = small_model()
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert isinstance(make_optimizer(OptimizerPart(name="muon"), model), torch.optim.AdamW)


def test_muon_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    recipe = staged(tiny, optimizer={"name": "muon", "learning_rate": 1e-2, "warmup_steps": 2})
    whole = train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 5)
    train(output=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(whole.run, tmp_path / "parts")


def test_a_stage_s_own_shares_resume_bit_for_bit(tiny: Tiny, tmp_path: Path, text_folder: Path) -> None:
    """Killed on both sides of a change of shares: a checkpoint at the end of a stage still counts that stage."""
    sources = [
        {"name": name, "kind": "text", "paths": [str(text_folder)], "share": share}
        for name, share in (("one", 3.0), ("two", 1.0))
    ]
    recipe = tiny(
        data={"sources": sources},
        stages=[{"length": 32, "steps": 3, "sources": {"two": 1.0}}, {"length": 32, "steps": 5}],
    )
    whole = train(recipe, output=tmp_path / "whole", quiet=True)
    for dies in (2, 4):
        stopped_run(recipe, tmp_path / str(dies), dies)
        train(recipe, output=tmp_path / str(dies), resume=True, quiet=True)
        assert_same_run(whole.run, tmp_path / str(dies))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": {"name": "muon"}, "engine": {"name": "fsdp2"}}, "muon needs whole matrices"),
        ({"optimizer": {"name": "sgd"}}, "muon"),
        ({"stages": [{"length": 32, "steps": 1, "sources": {"txt": 1.0}}]}, "data.sources has text"),
        ({"stages": [{"length": 32, "steps": 1, "sources": {"text": 0.0}}]}, "no source a share"),
    ],
)
def test_recipes_that_cannot_be(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_recipe(tiny(**changes))


def test_every_name_of_the_recipe_is_an_optimiser() -> None:
    field = OptimizerPart.model_fields["name"].annotation
    assert set(field.__args__) == set(OPTIMISERS)  # type: ignore[union-attr]


def test_eight_bits_need_their_library() -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(RopewalkError, match="bitsandbytes"):
            make_optimizer(OptimizerPart(name="adamw-8bit"), nn.Linear(2, 2))


def made_groups(part: OptimizerPart, model: Any) -> list[tuple[list[str], float]]:
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = make_optimizer(part, model).param_groups
    return [([names[id(tensor)] for tensor in group["params"]], group["weight_decay"]) for group in groups]


def test_adamw_has_the_recipes_settings_and_only_what_is_trained() -> None:
    part = OptimizerPart(learning_rate=3e-3, betas=(0.8, 0.7), epsilon=1e-5, weight_decay=0.3)
    model = small_model()
    optimizer = make_optimizer(part, model)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (3e-3, (0.8, 0.7), 1e-5, True)
    matrices = [name for name, tensor in model.named_parameters() if tensor.ndim == 2]
    vectors = [name for name, tensor in model.named_parameters() if tensor.ndim == 1]
    assert made_groups(part, model) == [(matrices, 0.3), (vectors, 0.0)]
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert made_groups(part, model) == [(["model.norm.weight"], 0.0)]
    model.model.norm.weight.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert made_groups(part, model) == [(["lm_head.weight"], 0.3)]


def test_muon_has_the_recipes_settings_and_may_stand_alone() -> None:
    part = OptimizerPart(name="muon", learning_rate=3e-3, weight_decay=0.3, betas=(0.8, 0.7), epsilon=1e-5)
    model = small_model()
    muon, rest = make_optimizer(part, model).parts  # type: ignore[attr-defined]
    [group] = muon.param_groups
    assert (group["lr"], group["weight_decay"], group["adjust_lr_fn"]) == (3e-3, 0.3, "match_rms_adamw")
    assert [(one["lr"], one["betas"], one["eps"]) for one in rest.param_groups] == [
        (3e-3, (0.8, 0.7), 1e-5)
    ] * 2
    # Tables are left to AdamW, tied or not, and so is what is no matrix.
    assert [names for names, _ in made_groups(part, model)[1:]] == [
        ["model.embed_tokens.weight", "lm_head.weight"],
        [name for name, tensor in model.named_parameters() if tensor.ndim == 1],
    ]
    model.requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert made_groups(part, model) == [(["model.layers.0.mlp.up_proj.weight"], 0.3)]
    assert len(make_optimizer(part, model).parts) == 1  # type: ignore[attr-defined]

    class Headless(nn.Module):
        """A model without an output table."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner = nn.Embedding(4, 3), nn.Linear(3, 3)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def get_output_embeddings(self) -> None:
            return None

    assert [names for names, _ in made_groups(part, Headless())] == [
        ["inner.weight"],
        ["table.weight"],
        ["inner.bias"],
    ]


def test_together_steps_each_part_once_and_gives_the_closures_loss() -> None:
    model = small_model()
    optimizer = make_optimizer(OptimizerPart(name="muon", **PLAIN), model)
    calls: list[str] = []
    for part, name in zip(optimizer.parts, ("muon", "adamw"), strict=True):  # type: ignore[attr-defined]
        part.step = lambda name=name: calls.append(name)
    assert optimizer.step() is None
    assert optimizer.step(lambda: 2.5) == 2.5
    assert calls == ["muon", "adamw"] * 2
