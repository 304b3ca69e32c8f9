"""One step is the plain loop: the mean over all tokens of the step, whatever the micro-batches."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_resume import metrics_of, stopped_run
from tinymodels import small_model, some_tokens
from torch.nn import functional

from ropewalk.errors import RopewalkError
from ropewalk.training.model.optimisers import make_optimizer
from ropewalk.training.objective import plain_loss, summed_loss, target_weight
from ropewalk.training.parts.loss.head import install_head
from ropewalk.training.parts.loss.losses import shift_labels
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.recipe.recipe import OptimizerPart, Recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]


def losses_and_norms(recipe: dict[str, Any], output: Path) -> list[tuple[float, float]]:
    run = train(recipe, output=output, quiet=True, device="cpu").run
    return [(line["loss"], line["grad_norm"]) for line in metrics_of(run) if line["kind"] == "train"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weighting": {"near": {"by": "distance", "tokens": 4}}},
        {"weighting": {"input_noise": {"share": 0.3}}},
        {"weighting": {"long_tokens": {"context": 8}, "easy": {"below": 4.9}}},
        {"positions": {"kind": "pose", "target_length": 64}, "rope": {"method": "yarn", "target_length": 64}},
    ],
)
def test_micro_batches_change_nothing(tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Loss AND gradient: an optimiser that divides by the gradient's size would hide a factor in it."""
    found = []
    for micro in (128, 32):
        recipe = tiny(stages=[{"length": 32, "steps": 3}], micro_batch_tokens=micro, **changes)
        recipe["model"]["init"]["attention_dropout"] = 0.0
        found.append(losses_and_norms(recipe, tmp_path / str(micro)))
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=2e-5)


@contextlib.contextmanager
def recorded() -> Iterator[tuple[list[Any], list[torch.Tensor]]]:
    """(the model before the first step, the ids of every micro-batch) of a training inside."""
    from ropewalk.training import loop as loop_module

    read: list[torch.Tensor] = []
    kept: list[Any] = []
    real = loop_module.Loop.transform

    def transform(self: Any, batch: Any, number: int) -> Any:
        made = real(self, batch, number)
        if not kept:
            kept.append(copy.deepcopy(self.model))
            kept[0].forward = type(kept[0]).forward.__get__(kept[0])
        read.append(batch["input_ids"])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module.Loop, "transform", transform)
        yield kept, read


def test_tokens_that_their_loss_leaves_out_do_not_count(tiny: Tiny, tmp_path: Path) -> None:
    """The weight of the step is known only once the losses are: loss and gradient are the mean over what is left."""
    below = math.log(257)
    recipe = tiny(stages=[{"length": 32, "steps": 1}], weighting={"easy": {"below": below}})
    recipe["model"]["init"]["attention_dropout"] = 0.0
    with recorded() as (kept, read):
        [(loss, norm)] = losses_and_norms(recipe, tmp_path / "run")
    [model], [ids] = kept, read
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    )
    left = losses[losses >= below]
    assert 0.1 < len(left) / len(losses) < 0.9
    left.mean().backward()
    squares = sum(float(tensor.grad.double().square().sum()) for tensor in model.parameters())
    assert loss == pytest.approx(left.mean().item(), rel=1e-5)
    assert norm == pytest.approx(squares**0.5, rel=1e-4)


@pytest.mark.parametrize("clip", [1.0, 1e-7])
def test_two_steps_are_the_plain_loop(tiny: Tiny, tmp_path: Path, clip: float) -> None:
    """Losses, gradient norms and weights against transformers' own loss and torch's own AdamW.

    AdamW divides by the gradient's size: only beside its epsilon does it show whether a gradient was clipped.
    """
    recipe = tiny(
        stages=[{"length": 32, "steps": 2}],
        optimizer={"learning_rate": 1e-2, "warmup_steps": 1, "decay": "constant", "clip": clip},
        checkpoints={"every": 2, "keep_last": None},
    )
    recipe["model"]["init"]["attention_dropout"] = 0.0
    with recorded() as (kept, read):
        found = losses_and_norms(recipe, tmp_path / "run")
    [model] = kept
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [tensor for tensor in parameters.values() if tensor.ndim == 2], "weight_decay": 0.1},
        {"params": [tensor for tensor in parameters.values() if tensor.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    assert len(read) == len(found) == 2
    # A warm-up of one step begins at half of the rate.
    for ids, (loss, norm), rate in zip(read, found, (5e-3, 1e-2), strict=True):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        plain = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        plain.backward()
        squares = sum(float(tensor.grad.double().square().sum()) for tensor in parameters.values())
        assert loss == pytest.approx(plain.item(), rel=1e-5)
        assert norm == pytest.approx(squares**0.5, rel=1e-4)
        for tensor in parameters.values():
            tensor.grad *= min(1.0, clip / squares**0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    trained = load_file(next((tmp_path / "run").glob("checkpoints/*/model.safetensors")))
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, parameters[name].detach(), rtol=1e-4, atol=1e-5)


def test_gradients_are_shared_once_a_step_in_its_last_micro_batch(tiny: Tiny, tmp_path: Path) -> None:
    from ropewalk.training.engine import Engine

    asked: list[bool] = []
    real = Engine.gradient_sync

    def watch(self: Engine, model: Any, *, last: bool) -> Any:
        asked.append(last)
        return real(self, model, last=last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "gradient_sync", watch)
        recipe = tiny(stages=[{"length": 32, "steps": 2}], micro_batch_tokens=32)
        train(recipe, output=tmp_path / "run", quiet=True, device="cpu")
    assert asked == [False, False, False, True] * 2


def test_norms_and_biases_do_not_decay() -> None:
    model = small_model("qwen2")
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = make_optimizer(OptimizerPart(weight_decay=0.25), model).param_groups
    decays = {names[id(tensor)]: group["weight_decay"] for group in groups for tensor in group["params"]}
    assert decays.keys() == set(names.values())
    for name, decay in decays.items():
        vector = "norm" in name or name.endswith("bias")
        assert decay == (0.0 if vector else 0.25), name


def test_a_routers_loss_joins_with_its_coefficient() -> None:
    fields = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = small_model("mixtral", router_aux_loss_coef=0.3, **fields)
    tokens = some_tokens()
    stock = model(input_ids=tokens, use_cache=False)
    logits = stock.logits[:, :-1]
    plain = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
    wanted = plain.item() + 0.3 * stock.aux_loss.item()
    install_head(model, LossOptions())
    targets = shift_labels(tokens)
    weight = (targets != -100).float().sum()
    found = summed_loss(model, {"input_ids": tokens, "target_ids": targets}, weight) / weight
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_a_changed_learning_rate_is_taken_on_resume(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    slow = {"learning_rate": 1e-4, "warmup_steps": 2, "decay": "constant"}
    stopped_run(tiny(), output, 5)
    train(tiny(optimizer=slow), output=output, resume=True, allow_changes=True, quiet=True)
    rates = {line["step"]: line["learning_rate"] for line in metrics_of(output) if line["kind"] == "train"}
    assert rates[3] > 5e-3
    assert [rates[step] for step in (4, 5, 8)] == [1e-4] * 3


def test_another_optimiser_starts_anew_and_says_so(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    stopped_run(tiny(), output, 5)
    changed = tiny(optimizer={"name": "muon", "learning_rate": 1e-2})
    assert train(changed, output=output, resume=True, allow_changes=True, quiet=True).final["step"] == 8
    assert "the state of adamw is of no use to muon" in capsys.readouterr().err


def test_a_refused_change_leaves_the_run_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    stopped_run(tiny(), output, 5)
    kept = {name: (output / name).read_bytes() for name in ("run.json", "request.json", "manifest.json")}
    with pytest.raises(RopewalkError, match="seed: 0 -> 1"):
        train(tiny(seed=1), output=output, resume=True, quiet=True)
    assert {name: (output / name).read_bytes() for name in kept} == kept
    # Allowed, and yet impossible: the checkpoint has two layers. The recipe of the run stays what it was.
    deeper = tiny()
    deeper["model"]["init"]["num_hidden_layers"] = 3
    with pytest.raises(RopewalkError, match="does not fit"):
        train(deeper, output=output, resume=True, allow_changes=True, quiet=True)
    assert (output / "run.json").read_bytes() == kept["run.json"]
    assert train(output=output, resume=True, quiet=True).final["step"] == 8


def test_recipe_versions_and_command_are_written_once(tiny: Tiny, tmp_path: Path) -> None:
    """In the request, as those of every run; run.json says what the run is made of."""
    output = tmp_path / "run"
    stopped_run(tiny(), output, 5)
    asked, described = (json.loads((output / name).read_text()) for name in ("request.json", "run.json"))
    assert asked["request"]["recipe"] == Recipe.model_validate(tiny()).to_json()
    assert {"torch", "transformers", "ropewalk", "python"} <= set(asked["versions"])
    assert set(described) == {
        "format", "data", "data_size", "parameters", "trainable_parameters", "data_report",
    }  # fmt: skip
    train(tiny(seed=1), output=output, resume=True, allow_changes=True, quiet=True)
    asked = json.loads((output / "request.json").read_text())
    assert (asked["request"]["recipe"]["seed"], asked["seed"]) == (1, 1)


def test_a_run_that_kept_its_recipe_in_run_json_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "run"
    stopped_run(tiny(), output, 5)
    described = json.loads((output / "run.json").read_text())
    old = described | {"format": "ropewalk-training/1", "recipe": Recipe.model_validate(tiny()).to_json()}
    (output / "run.json").write_text(json.dumps(old))
    # Such a run's request may be a later one that never began: the recipe in run.json is the run's.
    asked = json.loads((output / "request.json").read_text())
    asked["request"]["recipe"]["seed"] = 5
    (output / "request.json").write_text(json.dumps(asked))
    with pytest.raises(RopewalkError, match="seed: 0 -> 5"):
        train(tiny(seed=5), output=output, resume=True, quiet=True)
    assert train(output=output, resume=True, quiet=True).final["step"] == 8
    assert json.loads((output / "run.json").read_text()) == described
    asked = json.loads((output / "request.json").read_text())
    assert asked["request"]["recipe"] == Recipe.model_validate(tiny()).to_json()


def test_a_changed_base_is_noticed_under_lora(tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = Path(train(tiny(), output=tmp_path / "base", quiet=True).final["path"])
    recipe = tiny(model={"path": str(base)}, lora={"rank": 2})
    stopped_run(recipe, tmp_path / "run", 5)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 1e-3
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RopewalkError, match=r"data of base weights: \w{12} -> \w{12}"):
        train(output=tmp_path / "run", resume=True, quiet=True)


def test_a_kernel_without_weights_is_used_where_all_tokens_weigh_alike(tiny: Tiny, tmp_path: Path) -> None:
    """liger's kernel takes no token weights: given none, it can run."""
    from ropewalk.training.parts.loss import head as head_module

    seen: list[bool] = []
    real = head_module.chunked_cross_entropy

    def watch(*args: Any, token_weights_BT: Any = None, **kwargs: Any) -> Any:
        seen.append(token_weights_BT is None)
        return real(*args, token_weights_BT=token_weights_BT, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_module, "chunked_cross_entropy", watch)
        short = [{"length": 32, "steps": 1}]
        train(tiny(stages=short), output=tmp_path / "plain", quiet=True)
        assert all(seen)
        train(tiny(stages=short, weighting={"near": {"tokens": 3}}), output=tmp_path / "near", quiet=True)
        assert not all(seen)


def test_old_spellings_of_a_recipe_still_read(tiny: Tiny) -> None:
    from ropewalk.training.recipe.reading import read_recipe

    old = read_recipe(tiny(loss={"engine": "plain"}, packing={"engine": "mask"}))
    new = read_recipe(tiny(loss={"kernel": "plain"}, packing={"method": "mask"}))
    assert old == new
    assert json.loads(json.dumps(old.to_json()))["loss"]["kernel"] == "plain"


@pytest.mark.parametrize(
    ("config", "auxiliary", "wanted"),
    [
        ({"router_aux_loss_coef": 0.5}, 3.0, 10.0 + 3.0 * 0.5 * 4.0),
        ({"router_aux_loss_coef": None}, 3.0, 10.0),
        ({"router_aux_loss_coef": 0.0}, 3.0, 10.0),
        # A router's loss that the model has no coefficient for does not join.
        ({}, 3.0, 10.0),
        (None, 3.0, 10.0),
        ({"router_aux_loss_coef": 0.5}, None, 10.0),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_routers_loss_is_a_mean_times_the_tokens_weight(
    config: dict[str, Any] | None, auxiliary: float | None, wanted: float, wrapped: bool
) -> None:
    class Model:
        def __call__(self, **inputs: Any) -> Any:
            assert inputs == {"x": 1}
            return SimpleNamespace(
                loss=torch.tensor(10.0), aux_loss=None if auxiliary is None else torch.tensor(auxiliary)
            )

    model: Any = Model()
    if config is not None:
        model.config = SimpleNamespace(**config)
    if wrapped:
        # As DDP keeps it.
        inner, model = model, Model()
        model.module = inner
    assert summed_loss(model, {"x": 1}, torch.tensor(4.0)).item() == wanted
    bare: Any = lambda **inputs: SimpleNamespace(loss=torch.tensor(10.0))  # noqa: E731
    assert summed_loss(bare, {"x": 1}, torch.tensor(4.0)).item() == 10.0


def test_an_evaluations_loss_is_a_plain_sum_and_needs_no_gradient() -> None:
    model, tokens = small_model(), some_tokens()
    targets = shift_labels(tokens)
    targets[0, 3:9] = -100
    logits = model(input_ids=tokens, use_cache=False).logits
    wanted = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    install_head(model, LossOptions())
    found = plain_loss(model, tokens, targets)
    assert isinstance(found, float)
    assert found == pytest.approx(wanted, rel=1e-5)
    # Rows that do not divide into equal parts are computed whole.
    sharing: Any = SimpleNamespace(multiple_of=7)
    assert plain_loss(model, tokens, targets, sharing) == pytest.approx(wanted, rel=1e-5)
    assert target_weight({"target_weights": torch.tensor([[0.5, 2.0], [0.0, 1.0]])}).item() == 3.5
