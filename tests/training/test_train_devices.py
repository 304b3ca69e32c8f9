"""What is tried and chosen for a device, is for the one that trains: shown with stand-ins, no GPU is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_train_resume import metrics_of
from tinymodels import small_model

from ropewalk.training import loading
from ropewalk.training.engine import Engine
from ropewalk.training.parts.loss import head
from ropewalk.training.parts.loss.losses import chunked_cross_entropy
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.parts.parts import Parts
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]


class Reached(Exception):
    """As far as the test goes."""


def test_parts_are_tried_on_the_device_that_trains(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for a GPU is torch's meta device: the model is there before any part looks at it."""
    asked: list[str] = []
    real = Engine.with_accelerator

    def with_accelerator(self: Engine, *given: Any) -> Engine:
        engine = real(self, *given)
        standing_in = SimpleNamespace(device=torch.device("meta"), autocast=engine.accelerator.autocast)
        return dataclasses.replace(engine, accelerator=standing_in)

    def install(_self: Parts, model: Any, **_: Any) -> list[str]:
        asked.extend({tensor.device.type for tensor in model.parameters()})
        raise Reached

    monkeypatch.setattr(Engine, "with_accelerator", with_accelerator)
    monkeypatch.setattr(Parts, "install", install)
    with pytest.raises(Reached):
        train(tiny(), output=tmp_path / "run", quiet=True, device="cpu")
    assert asked == ["meta"]


@pytest.mark.parametrize(("attention", "mixed"), [("flash_attention_2", True), ("sdpa", False)])
def test_flash_attention_is_tried_in_the_type_that_it_has(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str, mixed: bool
) -> None:
    """Float32 weights under mixed precision: outside of it FlashAttention would be refused for its type."""
    seen: list[bool] = []
    real = loading.build_model

    def build_model(recipe: Recipe, tokenizer: Any, **given: Any) -> Any:
        plain = recipe.model.model_copy(update={"attention": "sdpa"})
        return real(recipe.model_copy(update={"model": plain}), tokenizer, **given)

    def install(_self: Parts, _model: Any, **_: Any) -> list[str]:
        seen.append(torch.is_autocast_enabled("cpu"))
        raise Reached

    monkeypatch.setattr(loading, "build_model", build_model)
    monkeypatch.setattr(Parts, "install", install)
    recipe = tiny(precision="bfloat16")
    recipe["model"]["attention"] = attention
    with pytest.raises(Reached):
        train(recipe, output=tmp_path / "run", quiet=True, device="cpu")
    assert seen == [mixed]


@pytest.mark.parametrize(
    ("device", "usable", "kernel", "chunk"),
    [("meta", True, "liger", 1024), ("meta", False, "chunked", 1024), ("cpu", False, "chunked", 256)],
)
def test_the_loss_is_chosen_for_the_models_device(
    monkeypatch: pytest.MonkeyPatch, device: str, usable: bool, kernel: str, chunk: int
) -> None:
    asked, made = [], []

    def liger_usable(found: torch.device) -> bool:
        asked.append(found.type)
        return usable

    monkeypatch.setattr(head, "liger_usable", liger_usable)
    monkeypatch.setattr(head, "_unfit", lambda model: None)
    monkeypatch.setattr(head, "_forward_with", lambda *given: made.append(given) or (lambda self: None))
    assert head.install_head(small_model().to(device), LossOptions()).kernel == kernel
    assert (asked, made) == ([device], [(kernel, chunk)])


@pytest.mark.parametrize("weighed", [False, True])
def test_liger_runs_where_no_weights_are_wanted(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weighed: bool
) -> None:
    """A stand-in with Liger's arguments: every micro-batch reaches it, unless tokens are weighed."""
    recipe = tiny(stages=[{"length": 32, "steps": 2}])
    if weighed:
        recipe["weighting"] = {"shape": {"by": "position", "shape": "ramp"}}
    plain = metrics_of(train(recipe, output=tmp_path / "plain", quiet=True, device="cpu").run)
    calls = []

    def liger_sum(hidden: Any, weight: Any, labels: Any, *, bias: Any, softcap: Any) -> Any:
        calls.append(hidden.shape)
        return chunked_cross_entropy(hidden, weight, labels, bias=bias, softcap=softcap, denominator=1.0)

    monkeypatch.setattr(head, "liger_usable", lambda device: True)
    monkeypatch.setattr(head, "liger_sum", liger_sum)
    other = metrics_of(train(recipe, output=tmp_path / "other", quiet=True, device="cpu").run)
    assert bool(calls) is not weighed
    assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in plain], rel=1e-5)
